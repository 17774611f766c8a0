//! Storing edits with the editor that can write to the filesystem.

use super::Edit;
use super::e2fs::E2fs;
use super::editor::Editor;
use super::kernel_driver::KernelDriver;
use crate::bytes::ReadAt;
use crate::fs::KernelMount;
use crate::fs::open::open_fs;
use crate::fs::probe::{HEAD_LEN, ImageContent, probe};
use crate::{Error, Result};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The editor for the filesystem in `partition`.
fn editor(partition: &Path) -> Result<Box<dyn Editor>> {
    Ok(match kernel_mount(partition)? {
        Some(mount) => Box::new(KernelDriver(mount)),
        None => Box::new(E2fs),
    })
}

/// Store `edits` in the filesystem in `partition`, which must not be mounted: ext2/3/4 with
/// e2fsprogs, XFS and Btrfs with the kernel's driver, which needs root.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound) without the filesystem's tools;
/// [`Unsupported`](crate::ErrorKind::Unsupported) for a file that is stored inline, for a path that
/// the tools cannot handle, and for XFS and Btrfs unless this process runs as root;
/// [`Io`](crate::ErrorKind::Io) with the message of the tools or the kernel. Edits before the
/// failed one stay.
pub fn apply(edits: &[Edit], partition: &Path) -> Result<()> {
    if edits.is_empty() { Ok(()) } else { editor(partition)?.apply(edits, partition) }
}

/// Give the filesystem in `partition`, which must not be mounted, another UUID.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) for XFS and Btrfs;
/// [`NotFound`](crate::ErrorKind::NotFound) without the tools; [`Io`](crate::ErrorKind::Io) with
/// their message.
pub fn set_uuid(partition: &Path, uuid: &str) -> Result<()> {
    editor(partition)?.set_uuid(partition, uuid)
}

/// Make sure, as far as this can be known, that the files that `edits` create fit into the
/// filesystem in `partition`.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) with the available and the required space.
pub fn check_room(edits: &[Edit], partition: &Path) -> Result<()> {
    if edits.is_empty() { Ok(()) } else { editor(partition)?.check_room(edits, partition) }
}

/// How the kernel mounts the filesystem in `partition`, if only its driver writes to it.
fn kernel_mount(partition: &Path) -> Result<Option<KernelMount>> {
    let failed = |e| Error::io("cannot read the guest's partition", e);
    let mut file = File::open(partition).map_err(failed)?;
    let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
    let partition = Partition { file, size };
    // At most `HEAD_LEN`, so it fits into `usize`.
    let mut head = vec![0; size.min(HEAD_LEN as u64) as usize];
    partition.read_at(&mut head, 0).map_err(failed)?;
    match probe(&head, size) {
        ImageContent::Xfs { .. } | ImageContent::Btrfs { .. } => {
            Ok(open_fs(partition)?.kernel_mount())
        }
        _ => Ok(None),
    }
}

struct Partition {
    file: File,
    size: u64,
}

impl ReadAt for Partition {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn len(&self) -> u64 {
        self.size
    }
}
