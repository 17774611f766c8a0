//! The kernel's table of mounts.

use std::fs;
use std::path::{Path, PathBuf};

/// A line of `/proc/self/mountinfo` (proc(5)).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MountEntry {
    /// Unique number of the mount.
    pub id: u64,
    /// `MAJOR:MINOR` of the filesystem.
    pub device: String,
    /// Where it is mounted.
    pub target: PathBuf,
    /// For example `fuse.synthdisk`.
    pub fs_type: String,
    /// The user who mounted it, which the kernel keeps for FUSE filesystems (`user_id`).
    pub owner: Option<u32>,
}

/// The mount that shows at `target` (absolute): the last one made there.
pub fn find_mount(target: &Path) -> Option<MountEntry> {
    all_mounts().into_iter().rfind(|m| m.target == target)
}

/// All mounts that this process sees, in the order of the kernel's table; none when it cannot be read.
pub fn all_mounts() -> Vec<MountEntry> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<MountEntry> {
    let (head, tail) = line.split_once(" - ")?;
    let mut fields = head.split(' ');
    let id = fields.next()?.parse().ok()?;
    let device = fields.nth(1)?.to_owned();
    let target = PathBuf::from(crate::image::unescape_mount_field(fields.nth(1)?));
    let mut tail = tail.split(' ');
    let fs_type = tail.next()?.to_owned();
    // After the source, whose spaces are escaped.
    let mut options = tail.nth(1).unwrap_or_default().split(',');
    let owner = options.find_map(|option| option.strip_prefix("user_id=")?.parse().ok());
    Some(MountEntry { id, device, target, fs_type, owner })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_kernels_lines() {
        let entry = parse(
            "36 35 0:52 / /mnt/a\\040b rw,nosuid shared:7 - fuse.synthdisk /img rw,user_id=0",
        );
        assert_eq!(
            entry,
            Some(MountEntry {
                id: 36,
                device: "0:52".into(),
                target: "/mnt/a b".into(),
                fs_type: "fuse.synthdisk".into(),
                owner: Some(0),
            })
        );
        assert_eq!(parse("nonsense"), None);
        assert_eq!(parse("36 35 - x"), None);
    }
}
