//! Storing edits in a filesystem, with whatever can write to it.

use super::{Change, Content as NewContent, Edit, e2fs, kernel_driver};
use crate::bytes::ReadAt;
use crate::fs::KernelMount;
use crate::fs::open::open_fs;
use crate::fs::probe::{Content, HEAD_LEN, probe};
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Store `edits` in the filesystem in `partition`, which nobody has mounted: ext2/3/4 with e2fsprogs,
/// XFS and Btrfs with the kernel's driver, which takes root.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound) without the tools of the filesystem;
/// [`Unsupported`](crate::ErrorKind::Unsupported) for a file that has no blocks of its own, and for
/// XFS and Btrfs unless this process is root's; [`Io`](crate::ErrorKind::Io) with what the tools or
/// the kernel say. Edits before the one that failed stay.
pub fn apply(edits: &[Edit], partition: &Path) -> Result<()> {
    if edits.is_empty() {
        return Ok(());
    }
    match kernel_mount(partition)? {
        Some(mount) => kernel_driver::apply(edits, partition, &mount),
        None => e2fs::apply(edits, partition),
    }
}

/// How the kernel mounts the filesystem in `partition`, if only its driver writes to it.
fn kernel_mount(partition: &Path) -> Result<Option<KernelMount>> {
    let failed = |e| Error::io("cannot read the guest's partition", e);
    let mut file = File::open(partition).map_err(failed)?;
    let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
    let partition = Partition { file, size };
    // HEAD_LEN fits.
    let mut head = vec![0; size.min(HEAD_LEN as u64) as usize];
    partition.read_at(&mut head, 0).map_err(failed)?;
    match probe(&head, size) {
        Content::Xfs { .. } | Content::Btrfs { .. } => Ok(open_fs(partition)?.kernel_mount()),
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

/// Give the filesystem in `partition`, which nobody has mounted, another UUID.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) for XFS and Btrfs;
/// [`NotFound`](crate::ErrorKind::NotFound) without the tools; [`Io`](crate::ErrorKind::Io) with what
/// they say.
pub fn set_uuid(partition: &Path, uuid: &str) -> Result<()> {
    if kernel_mount(partition)?.is_some() {
        let what =
            "the UUID of an XFS or Btrfs filesystem cannot be changed here; leave it as it is";
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    e2fs::whole::set_uuid(partition, uuid)
}

/// Make sure, as far as that can be told, that the files that `edits` create find room in the
/// filesystem in `partition`.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) with what there is and what is needed.
pub fn check_room(edits: &[Edit], partition: &Path) -> Result<()> {
    let len = |edit: &Edit| match &edit.change {
        Change::Create { content: NewContent::Bytes(bytes), .. } => Some(bytes.len() as u64),
        // What cannot be read is said when it is copied.
        Change::Create { content: NewContent::HostFile(path), .. } => {
            Some(path.metadata().map_or(0, |m| m.len()))
        }
        Change::MakeDir(_) => Some(1),
        _ => None,
    };
    let lens: Vec<u64> = edits.iter().filter_map(len).collect();
    // The kernel says by itself when there is none.
    let unasked = lens.is_empty() || kernel_mount(partition)?.is_some();
    if unasked { Ok(()) } else { e2fs::whole::check_room(partition, &lens) }
}
