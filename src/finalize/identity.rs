//! Refuses a target that is one of the sources, whatever path leads to it.
//!
//! Files are compared by device and inode, so that links do not matter. Block devices are also
//! compared by the devices and files below them: a partition's disk, the devices of a logical
//! volume or RAID, and a loop device's file. Source: kernel Documentation/ABI/stable/sysfs-block,
//! Documentation/ABI/testing/sysfs-block.

use super::loops::file_behind;
use crate::{Error, ErrorKind, Result};
use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The file or device that a path leads to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Node {
    /// A file: its filesystem's device number and its inode.
    File(u64, u64),
    /// A block device, by its number.
    Device(u64),
}

fn node(meta: &Metadata) -> Node {
    if meta.file_type().is_block_device() {
        Node::Device(meta.rdev())
    } else {
        Node::File(meta.dev(), meta.ino())
    }
}

/// `node` and everything that contains or provides its bytes.
fn under(node: Node) -> BTreeSet<Node> {
    let mut found = BTreeSet::new();
    let mut left = vec![node];
    while let Some(node) = left.pop() {
        if !found.insert(node) {
            continue;
        }
        let Node::Device(number) = node else { continue };
        let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
        let Ok(sys) = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")) else { continue };
        if sys.join("partition").exists() {
            left.extend(sys.parent().and_then(device_in));
        }
        for slave in fs::read_dir(sys.join("slaves")).into_iter().flatten().flatten() {
            left.extend(device_in(&slave.path()));
        }
        if let Ok(file) = fs::read_to_string(sys.join("loop/backing_file")) {
            let meta = fs::metadata(file.trim_end_matches('\n'));
            left.extend(meta.ok().map(|meta| self::node(&meta)));
            // That name may no longer exist, or belong to another file now.
            let device = format!("/dev/block/{major}:{minor}");
            let by_name = sys.file_name().map(|name| Path::new("/dev").join(name));
            let asked = file_behind(Path::new(&device)).or_else(|| file_behind(&by_name?));
            left.extend(asked.map(|(device, inode)| Node::File(device, inode)));
        }
    }
    found
}

/// The device that a directory of /sys describes.
fn device_in(sys: &Path) -> Option<Node> {
    let text = fs::read_to_string(sys.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(Node::Device(nix::sys::stat::makedev(major.parse().ok()?, minor.parse().ok()?)))
}

/// Refuse a `target` that is one of `sources`, shows one, or is part of one. Paths that do not
/// exist are ignored.
///
/// # Errors
/// [`ErrorKind::Invalid`], naming the source.
pub fn refuse_sources(target: &Path, sources: &[PathBuf]) -> Result<()> {
    let Ok(meta) = fs::metadata(target) else { return Ok(()) };
    let target_node = node(&meta);
    let below_target = under(target_node);
    for source in sources {
        let Ok(meta) = fs::metadata(source) else { continue };
        let source_node = node(&meta);
        if below_target.contains(&source_node) || under(source_node).contains(&target_node) {
            let (target, source) = (target.display(), source.display());
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{target} is the same as {source}, which the disk is made of; sources are never \
                     written to, name another target"
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_seen_through() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("image"), b"x").unwrap();
        fs::write(path("other"), b"x").unwrap();
        fs::hard_link(path("image"), path("hard")).unwrap();
        std::os::unix::fs::symlink("hard", path("soft")).unwrap();
        let sources = [path("other"), path("image")];
        for same in ["image", "hard", "soft"] {
            let e = refuse_sources(&path(same), &sources).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Invalid, "{same}");
        }
        fs::write(path("third"), b"x").unwrap();
        refuse_sources(&path("third"), &sources).unwrap();
        refuse_sources(&path("missing"), &sources).unwrap();
    }
}
