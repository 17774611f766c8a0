//! What a loader starts: a kernel, its initrds and its command line.

use crate::disk::Source;
use crate::layout::{Ids, format_size};
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// A file for a loader to load.
#[derive(Clone, Debug)]
pub struct PayloadFile {
    /// Its location, for display.
    pub origin: String,
    /// Length in bytes.
    pub len: u64,
    /// Its bytes.
    pub source: Source,
    /// Bytes that change whenever the file does.
    pub identity: Vec<u8>,
}

/// What a loader will start.
#[derive(Clone, Debug)]
pub struct Payload {
    /// The kernel.
    pub kernel: PayloadFile,
    /// Initrds in this order; the kernel sees them as one.
    pub initrds: Vec<PayloadFile>,
    /// The kernel's command line.
    pub cmdline: String,
    /// How to start other entries of the guest's boot menu.
    pub menu: MenuRules,
}

/// What a loader that reads the guest's own boot menu needs to know to start its entries on KVM. It
/// applies to every entry, including those that the guest writes later.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct MenuRules {
    /// Number of the partition that holds the menu; 0 if there is none.
    pub partition: u32,
    /// The logical volume that holds the menu instead, by its name in `/dev/mapper`.
    pub volume: Option<String>,
    /// Whether another filesystem has the UUID or label of the one with the menu, so that a menu that
    /// searches for it may find either.
    #[serde(default)]
    pub is_copied: bool,
    /// The entry to boot by default: its number from 0, or its title; `None` for the guest's own
    /// default.
    pub entry: Option<String>,
    /// A kernel in the guest to start instead of any entry's, and its initrds: paths.
    pub kernel: Option<(String, Vec<String>)>,
    /// Value of `root=` for entries without one, or with one that has no meaning on KVM.
    pub root: String,
    /// Values of `root=` under Xen, and their replacements: `a2` (the letters and the number of
    /// `xvda2`, `sda2`, …), `UUID=…`, `PARTUUID=…`.
    pub devices: Vec<(String, String)>,
    /// Value of `resume=` for entries that name a device of the Xen machine; `None` without swap.
    pub swap: Option<String>,
    /// Parameters to add to entries that do not have a value for their key.
    pub defaults: Vec<String>,
    /// Parameters of all entries that the domU config names; they are adapted like an entry's own.
    pub extra: String,
    /// Parameters to add to all entries as they are.
    pub append: String,
    /// The command line for all entries, used verbatim.
    pub replace: Option<String>,
    /// Names of the kernel file that needs the first of the payload's initrds, which the guest does
    /// not have; empty if there is no such initrd.
    pub drivers_for: Vec<String>,
}

/// Maximum sizes that a loader can load, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Length of the kernel.
    pub kernel: u64,
    /// Length of all initrds together.
    pub initrds: u64,
    /// Length of the command line, without its NUL.
    pub cmdline: usize,
}

impl Payload {
    /// A value that changes whenever the kernel, an initrd or the command line does.
    pub fn token(&self) -> [u8; 16] {
        let files = std::iter::once(&self.kernel).chain(&self.initrds);
        let mut parts = vec![self.cmdline.clone().into_bytes()];
        for file in files {
            parts.push(file.origin.clone().into_bytes());
            parts.push(file.len.to_le_bytes().to_vec());
            parts.push(file.identity.clone());
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        *Ids::fingerprint(&parts).as_bytes()
    }

    /// Refuses a payload that the loader called `loader` cannot load. The kernel also limits the
    /// command line; that limit is checked where the kernel's header is known.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`].
    pub fn check(&self, limits: &Limits, loader: &str) -> Result<()> {
        let refuse = |what: String, len: u64, most: u64| {
            let what = format!(
                "{what} has {len} bytes, and the boot loader '{loader}' loads at most {}",
                format_size(most)
            );
            Err(Error::new(ErrorKind::TooLarge, format!("{what}; choose another one")))
        };
        if self.kernel.len > limits.kernel {
            let what = format!("the kernel {}", self.kernel.origin);
            return refuse(what, self.kernel.len, limits.kernel);
        }
        let initrds = self.initrds.iter().fold(0u64, |sum, file| sum.saturating_add(file.len));
        if initrds > limits.initrds {
            let names: Vec<&str> = self.initrds.iter().map(|file| file.origin.as_str()).collect();
            let what = format!("the initrd {}", names.join(" with "));
            return refuse(what, initrds, limits.initrds);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(origin: &str, len: u64) -> PayloadFile {
        PayloadFile { origin: origin.into(), len, source: Source::Zeros, identity: Vec::new() }
    }

    #[test]
    fn what_is_too_large_is_refused_by_name() {
        let limits = Limits { kernel: 100 << 20, initrds: 1 << 30, cmdline: 255 };
        let check = |kernel, initrds: &[u64]| {
            let initrds = initrds.iter().map(|len| file("/i", *len)).collect();
            let payload = Payload {
                kernel: file("/k", kernel),
                initrds,
                cmdline: String::new(),
                menu: MenuRules::default(),
            };
            payload.check(&limits, "x").map_err(|e| (e.kind(), e.to_string()))
        };
        assert_eq!(check(100 << 20, &[1 << 29, 1 << 29]), Ok(()));
        let (kind, text) = check((100 << 20) + 1, &[]).unwrap_err();
        assert_eq!(kind, ErrorKind::TooLarge);
        assert_eq!(
            text,
            "the kernel /k has 104857601 bytes, and the boot loader 'x' loads at most 100 MiB; \
             choose another one"
        );
        let (_, text) = check(1, &[1 << 29, 1 << 29, 1]).unwrap_err();
        assert!(text.starts_with("the initrd /i with /i with /i has 1073741825 bytes"), "{text}");
        assert!(check(1, &[u64::MAX, 2]).is_err());
    }

    #[test]
    fn tokens_follow_every_part() {
        let payload = || Payload {
            kernel: file("/k", 1),
            initrds: vec![file("/i", 2)],
            cmdline: "ro".into(),
            menu: MenuRules::default(),
        };
        let changed = |f: fn(&mut Payload)| {
            let mut other = payload();
            f(&mut other);
            other.token()
        };
        assert_eq!(payload().token(), payload().token());
        let all = [
            payload().token(),
            changed(|p| p.cmdline.push('x')),
            changed(|p| p.kernel.len = 2),
            changed(|p| p.kernel.identity.push(1)),
            changed(|p| p.initrds[0].identity.push(1)),
            changed(|p| p.initrds[0].origin.push('x')),
            changed(|p| p.initrds.clear()),
        ];
        for (i, token) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(token), "{i}");
        }
    }
}
