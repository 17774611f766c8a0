//! Mount options, as `-o` gives them.

use crate::{Error, ErrorKind, Result};
use nix::mount::MsFlags;

/// Options of the mount itself. See mount(8) and mount.fuse3(8).
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct MountOptions {
    /// Let every user in, not only the one who mounted.
    pub allow_other: bool,
    /// Have the kernel check file modes.
    pub default_permissions: bool,
    /// Refuse all writes.
    pub read_only: bool,
    /// Owner that the files show; the mounting user's by default.
    pub uid: Option<u32>,
    /// Group that the files show.
    pub gid: Option<u32>,
    /// Permission bits taken away from 0666; 0077 by default, 0 with `allow_other`.
    pub umask: Option<u32>,
    /// Options that the kernel knows for any filesystem.
    flags: MsFlagsDefault,
}

/// Flags of a fresh mount: no set-user-id programs, no devices, as all FUSE mounts.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(from = "u64", into = "u64")]
struct MsFlagsDefault(MsFlags);

impl From<u64> for MsFlagsDefault {
    fn from(bits: u64) -> Self {
        Self(MsFlags::from_bits_truncate(bits as nix::libc::c_ulong))
    }
}

impl From<MsFlagsDefault> for u64 {
    fn from(flags: MsFlagsDefault) -> Self {
        flags.0.bits() as Self
    }
}

impl Default for MsFlagsDefault {
    fn default() -> Self {
        Self(MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV))
    }
}

impl MountOptions {
    /// Take one option (`name` or `name=value`) if it is one of the mount's own; `Ok(false)`
    /// means that it is not known here.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a known name with a bad value.
    pub fn take(&mut self, option: &str) -> Result<bool> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let number = |radix| {
            value.and_then(|v| u32::from_str_radix(v, radix).ok()).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, format!("`-o {option}` needs a number"))
            })
        };
        match name {
            "allow_other" => self.allow_other = true,
            "default_permissions" => self.default_permissions = true,
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            "umask" => self.umask = Some(number(8)? & 0o777),
            "suid" => self.flags.0.remove(MsFlags::MS_NOSUID),
            "nosuid" => self.flags.0.insert(MsFlags::MS_NOSUID),
            "dev" => self.flags.0.remove(MsFlags::MS_NODEV),
            "nodev" => self.flags.0.insert(MsFlags::MS_NODEV),
            "noexec" => self.flags.0.insert(MsFlags::MS_NOEXEC),
            "noatime" => self.flags.0.insert(MsFlags::MS_NOATIME),
            // What mount(8) and systemd say among themselves, and what changes nothing here.
            "exec" | "atime" | "relatime" | "async" | "auto" | "noauto" | "nofail" | "defaults"
            | "user" | "users" | "nouser" | "owner" | "group" | "_netdev" | "dirsync" | "sync"
            | "nonempty" => {}
            _ if name.starts_with("x-") || name.starts_with("comment") => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Flags for mount(2).
    pub(super) fn kernel_flags(&self) -> MsFlags {
        let mut flags = self.flags.0;
        flags.set(MsFlags::MS_RDONLY, self.read_only);
        flags
    }

    /// Options for fusermount3, but for the names.
    pub(super) fn fusermount(&self) -> String {
        let mut out = String::from("nosuid,nodev");
        for (on, name) in [
            (self.read_only, "ro"),
            (self.allow_other, "allow_other"),
            (self.default_permissions, "default_permissions"),
            (self.flags.0.contains(MsFlags::MS_NOEXEC), "noexec"),
            (self.flags.0.contains(MsFlags::MS_NOATIME), "noatime"),
        ] {
            if on {
                out.push(',');
                out.push_str(name);
            }
        }
        out
    }

    /// Permission bits of the files.
    pub(super) fn file_mode(&self) -> u16 {
        let umask = self.umask.unwrap_or(if self.allow_other { 0 } else { 0o077 });
        let all = if self.read_only { 0o444 } else { 0o666 };
        (all & !umask) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_or_left() {
        let mut o = MountOptions::default();
        for known in ["allow_other", "ro", "uid=5", "umask=027", "noexec", "x-systemd.automount"] {
            assert!(o.take(known).unwrap(), "{known}");
        }
        assert!(!o.take("overlay=/x").unwrap());
        assert!(
            o.take("uid=root").is_err() && o.take("umask=9").is_err() && o.take("gid").is_err()
        );
        assert_eq!(o.fusermount(), "nosuid,nodev,ro,allow_other,noexec");
        assert_eq!(o.file_mode(), 0o440);
        assert_eq!(o.uid, Some(5));
        assert_eq!(MountOptions::default().file_mode(), 0o600);
        assert!(o.kernel_flags().contains(MsFlags::MS_RDONLY | MsFlags::MS_NOSUID));
    }
}
