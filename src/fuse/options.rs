//! Mount options, as `-o` gives them.

use crate::{Error, ErrorKind, Result};
use nix::mount::MsFlags;
use nix::unistd::{Group, User};
use rustix::mount::MountAttrFlags;

/// Options of the mount itself. See mount(8) and mount.fuse3(8).
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct MountOptions {
    /// Allow access for users other than the one who mounted, as far as the files' modes permit.
    pub allow_other: bool,
    /// Refuse all writes.
    pub read_only: bool,
    /// Owner of the files; the mounting user by default.
    pub uid: Option<u32>,
    /// Group of the files.
    pub gid: Option<u32>,
    /// Permission bits removed from 0666. By default, the files are as accessible as the images.
    pub umask: Option<u32>,
    /// Options that the kernel supports for every filesystem.
    flags: MsFlagsDefault,
}

/// Flags of a new mount: no set-user-id programs, no devices, as for all FUSE mounts.
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
    /// Parse one option (`name` or `name=value`) if it is an option of the mount itself;
    /// `Ok(false)` means that it is unknown here.
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
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "uid" => self.uid = Some(number(10).or_else(|_| user_id(option, value))?),
            "gid" => self.gid = Some(number(10).or_else(|_| group_id(option, value))?),
            "umask" => self.umask = Some(number(8)? & 0o777),
            "suid" => self.flags.0.remove(MsFlags::MS_NOSUID),
            "nosuid" => self.flags.0.insert(MsFlags::MS_NOSUID),
            "dev" => self.flags.0.remove(MsFlags::MS_NODEV),
            "nodev" => self.flags.0.insert(MsFlags::MS_NODEV),
            "noexec" => self.flags.0.insert(MsFlags::MS_NOEXEC),
            "noatime" => self.flags.0.insert(MsFlags::MS_NOATIME),
            // Options that mount(8) and systemd exchange, and options that always apply.
            "default_permissions"
            | "exec"
            | "atime"
            | "relatime"
            | "async"
            | "auto"
            | "noauto"
            | "nofail"
            | "defaults"
            | "user"
            | "users"
            | "nouser"
            | "owner"
            | "group"
            | "_netdev"
            | "dirsync"
            | "sync"
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

    /// The same flags for fsmount(2).
    pub(super) fn mount_attributes(&self) -> MountAttrFlags {
        let mut out = MountAttrFlags::empty();
        for (flag, attribute) in [
            (MsFlags::MS_RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
            (MsFlags::MS_NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
            (MsFlags::MS_NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
            (MsFlags::MS_NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
            (MsFlags::MS_NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
        ] {
            out.set(attribute, self.kernel_flags().contains(flag));
        }
        out
    }

    /// Options of the filesystem itself. The kernel always checks modes; otherwise `allow_other`
    /// would give every user full access.
    pub(super) fn filesystem_flags(&self) -> impl Iterator<Item = &'static str> {
        let ro = self.read_only.then_some("ro");
        let other = self.allow_other.then_some("allow_other");
        ["default_permissions"].into_iter().chain(ro).chain(other)
    }

    /// Options for fusermount3, except the names.
    pub(super) fn fusermount(&self) -> String {
        let flags = [(MsFlags::MS_NOEXEC, "noexec"), (MsFlags::MS_NOATIME, "noatime")];
        let flags = flags.into_iter().filter(|(flag, _)| self.flags.0.contains(*flag));
        let words = ["nosuid", "nodev"].into_iter().chain(self.filesystem_flags());
        words.chain(flags.map(|(_, name)| name)).collect::<Vec<_>>().join(",")
    }

    /// Permission bits of the files, given those of the images in `images`.
    pub(super) fn file_mode(&self, images: u16) -> u16 {
        let writable = if self.read_only { 0o444 } else { 0o666 };
        // At most nine bits.
        writable & self.umask.map_or(images, |umask| 0o777 & !umask as u16)
    }
}

/// The number of the user `name`, which `option` asks for.
fn user_id(option: &str, name: Option<&str>) -> Result<u32> {
    let user = name.and_then(|name| User::from_name(name).ok().flatten());
    let what = || format!("`-o {option}` needs the name or number of a user");
    user.map(|user| user.uid.as_raw()).ok_or_else(|| Error::new(ErrorKind::Invalid, what()))
}

/// The number of the group `name`, which `option` asks for.
fn group_id(option: &str, name: Option<&str>) -> Result<u32> {
    let group = name.and_then(|name| Group::from_name(name).ok().flatten());
    let what = || format!("`-o {option}` needs the name or number of a group");
    group.map(|group| group.gid.as_raw()).ok_or_else(|| Error::new(ErrorKind::Invalid, what()))
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
            o.take("uid=no such").is_err() && o.take("umask=9").is_err() && o.take("gid").is_err()
        );
        assert_eq!(o.fusermount(), "nosuid,nodev,default_permissions,ro,allow_other,noexec");
        assert_eq!(o.file_mode(0o600), 0o440, "the umask is what was asked for");
        assert_eq!(o.uid, Some(5));
        assert!(o.take("uid=root").unwrap() && o.take("gid=root").unwrap());
        assert_eq!((o.uid, o.gid), (Some(0), Some(0)), "names are looked up");
        for images in [0o600, 0o640] {
            assert_eq!(MountOptions::default().file_mode(images), images);
        }
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID;
        assert!(o.mount_attributes().contains(attributes));
        assert!(o.kernel_flags().contains(MsFlags::MS_RDONLY | MsFlags::MS_NOSUID));
    }
}
