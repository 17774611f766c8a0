//! Storing edits with the editor that can write to the filesystem.

use super::Edit;
use super::e2fs::E2fs;
use super::editor::Editor;
use super::kernel_driver::KernelDriver;
use crate::Result;
use crate::fs::KernelMount;
use std::path::Path;

/// The editor for a filesystem that only the kernel writes to, mounted as `mount` says, or for
/// ext2/3/4.
fn editor(mount: Option<&KernelMount>) -> Box<dyn Editor> {
    match mount {
        Some(mount) => Box::new(KernelDriver(mount.clone())),
        None => Box::new(E2fs),
    }
}

/// Store `edits` in the filesystem in `partition`, which must not be mounted: ext2/3/4 with
/// e2fsprogs, XFS and Btrfs with the kernel's driver, as `mount` says
/// ([`GuestFs::kernel_mount`](crate::fs::GuestFs::kernel_mount)), which needs root.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound) without the filesystem's tools;
/// [`Unsupported`](crate::ErrorKind::Unsupported) for a file that is stored inline, for a path that
/// the tools cannot handle, and for XFS and Btrfs unless this process runs as root;
/// [`Io`](crate::ErrorKind::Io) with the message of the tools or the kernel. Edits before the
/// failed one stay.
pub fn apply(edits: &[Edit], partition: &Path, mount: Option<&KernelMount>) -> Result<()> {
    if edits.is_empty() { Ok(()) } else { editor(mount).apply(edits, partition) }
}

/// Give the filesystem in `partition`, which must not be mounted, another UUID.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) for XFS and Btrfs;
/// [`NotFound`](crate::ErrorKind::NotFound) without the tools; [`Io`](crate::ErrorKind::Io) with
/// their message.
pub fn set_uuid(partition: &Path, uuid: &str, mount: Option<&KernelMount>) -> Result<()> {
    editor(mount).set_uuid(partition, uuid)
}

/// Make sure, as far as this can be known, that the files that `edits` create fit into the
/// filesystem in `partition`.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) with the available and the required space.
pub fn check_room(edits: &[Edit], partition: &Path, mount: Option<&KernelMount>) -> Result<()> {
    if edits.is_empty() { Ok(()) } else { editor(mount).check_room(edits, partition) }
}
