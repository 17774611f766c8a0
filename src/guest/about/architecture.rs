//! The processor architecture of a guest's programs, from the ELF header of a program that every
//! guest has.
//!
//! Source: System V ABI, "ELF Header".

use crate::fs::GuestFs;

/// Candidate programs; every guest has at least one of them.
const PROGRAMS: [&str; 5] = ["/sbin/init", "/bin/sh", "/usr/bin/env", "/bin/busybox", "/bin/ls"];

/// The architecture as `uname -m` prints it; `None` if none of the programs was found.
pub fn architecture(root: &dyn GuestFs) -> Option<String> {
    PROGRAMS.iter().find_map(|path| {
        let mut head = [0; 20];
        let mut file = root.open(path).ok()?;
        let mut done = 0;
        while done < head.len() {
            match file.read_at(&mut head[done..], done as u64).ok()? {
                0 => return None,
                n => done += n,
            }
        }
        machine(&head)
    })
}

fn machine(head: &[u8; 20]) -> Option<String> {
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let number = match head[5] {
        1 => u16::from_le_bytes([head[18], head[19]]),
        _ => u16::from_be_bytes([head[18], head[19]]),
    };
    let name = match (number, head[4]) {
        (3, _) => "i686",
        (62, 2) => "x86_64",
        (62, _) => "x32",
        (40, _) => "arm",
        (183, _) => "aarch64",
        (21, _) => "ppc64",
        (243, _) => "riscv64",
        _ => return Some(format!("ELF machine {number}")),
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    #[test]
    fn machines() {
        let elf = |class: u8, machine: u8| {
            let mut head = vec![0; 64];
            head[..4].copy_from_slice(b"\x7fELF");
            (head[4], head[5], head[18]) = (class, 1, machine);
            head
        };
        for (class, number, name) in [(2, 62, "x86_64"), (1, 3, "i686"), (2, 183, "aarch64")] {
            let root = MemFs::new()
                .file("/usr/lib/systemd/systemd", elf(class, number))
                .symlink("/sbin/init", "/usr/lib/systemd/systemd");
            assert_eq!(architecture(&root).as_deref(), Some(name));
        }
        let root = MemFs::new().file("/sbin/init", "#!/bin/sh\n").file("/bin/sh", elf(2, 62));
        assert_eq!(architecture(&root).as_deref(), Some("x86_64"));
        assert_eq!(architecture(&MemFs::new().file("/bin/sh", "short")), None);
    }
}
