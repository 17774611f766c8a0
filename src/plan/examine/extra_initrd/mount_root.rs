//! The program that mounts the root filesystem of a guest without an initrd, after its modules have been
//! loaded. The code is assembled from `mountroot64.S` by `scripts/assemble-loader` and committed.

use crate::{Error, ErrorKind, Result};

const CODE: &[u8] = include_bytes!("mountroot64.bin");
/// Where the program header has p_filesz and p_memsz.
const LEN_AT: [usize; 2] = [64 + 32, 64 + 40];
/// Directory in which the program mounts devtmpfs.
const DEVICES: &str = "/synthdisk/dev";
/// What Linux starts if the command line names no init.
const INITS: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];

/// A root filesystem.
#[derive(Clone, Debug)]
pub(in crate::plan::examine) struct RootMount {
    /// Its type: `ext4`.
    pub(in crate::plan::examine) fs_type: String,
    /// Index of its disk, from 0.
    pub(in crate::plan::examine) disk: u8,
    /// Number of its partition.
    pub(in crate::plan::examine) number: u32,
}

impl RootMount {
    /// The devices that it may be, on the buses that a machine may have.
    fn devices(&self) -> Vec<String> {
        let letter = char::from(b'a' + self.disk.min(25));
        let mut out: Vec<String> = ["vd", "sd", "xvd", "hd"]
            .map(|kind| format!("{DEVICES}/{kind}{letter}{}", self.number))
            .into();
        out.push(format!("{DEVICES}/nvme{}n1p{}", self.disk, self.number));
        out
    }
}

/// The program that mounts `root` as the kernel would with `cmdline`, and starts its init.
///
/// # Errors
/// `Invalid` for words that contain a NUL.
pub(super) fn program(root: &RootMount, cmdline: &str) -> Result<Vec<u8>> {
    let kernel = cmdline.split_once(" -- ").map_or(cmdline, |(kernel, _)| kernel);
    let words: Vec<&str> = kernel.split_ascii_whitespace().collect();
    let value =
        |key: &str| words.iter().rev().find_map(|w| w.strip_prefix(key)).unwrap_or_default();
    let mode = words.iter().rev().find(|w| ["ro", "rw"].contains(w)).copied().unwrap_or("ro");
    let given = Some(value("init=")).filter(|init| init.starts_with('/'));
    let mut table = vec![mode.to_owned(), value("rootflags=").to_owned(), root.fs_type.clone()];
    table.extend(root.devices());
    table.push(String::new());
    table.extend(given.into_iter().chain(INITS).map(str::to_owned));
    table.push(String::new());
    let mut out = CODE.to_vec();
    for text in table {
        if text.contains('\0') {
            return Err(Error::new(ErrorKind::Invalid, "a NUL in the command line"));
        }
        out.extend(text.into_bytes());
        out.push(0);
    }
    let len = (out.len() as u64).to_le_bytes();
    for at in LEN_AT {
        out[at..at + 8].copy_from_slice(&len);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_the_kernel_would_do() {
        let root = RootMount { fs_type: "btrfs".into(), disk: 1, number: 3 };
        let table = |cmdline: &str| {
            let program = program(&root, cmdline).unwrap();
            for at in LEN_AT {
                assert_eq!(program[at..at + 8], (program.len() as u64).to_le_bytes());
            }
            String::from_utf8(program[CODE.len()..].to_vec()).unwrap().replace('\0', " ")
        };
        let devices = "/synthdisk/dev/vdb3 /synthdisk/dev/sdb3 /synthdisk/dev/xvdb3 \
                       /synthdisk/dev/hdb3 /synthdisk/dev/nvme1n1p3 ";
        let inits = "/sbin/init /etc/init /bin/init /bin/sh";
        assert_eq!(table("root=x quiet"), format!("ro  btrfs {devices} {inits}  "));
        let own = table("ro rw rootflags=subvol=@ init=/lib/systemd/systemd -- ro init=/x");
        let expected = format!("rw subvol=@ btrfs {devices} /lib/systemd/systemd {inits}  ");
        assert_eq!(own, expected);
        assert!(program(&root, "init=/\0").is_err());
    }
}
