//! Sharing blocks between files, on filesystems that support it (XFS, Btrfs, bcachefs, OCFS2).
//!
//! Source: ioctl_ficlonerange(2).

#![expect(unsafe_code, reason = "an ioctl that reads a structure of ours")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `struct file_clone_range` of `linux/fs.h`.
#[repr(C)]
#[derive(Debug)]
pub struct FileCloneRange {
    src_fd: i64,
    src_offset: u64,
    src_length: u64,
    dest_offset: u64,
}

nix::ioctl_write_ptr!(ficlonerange, 0x94, 13, FileCloneRange);

/// Make `len` bytes at `to` of `target` share the blocks at `from` of `source`. `len` is not 0; all
/// three are multiples of the filesystem's block size. On an error, both files are unchanged.
///
/// # Errors
/// Errors of the system call; see [`cannot_share`].
pub(super) fn clone_range(
    source: &File,
    from: u64,
    target: &File,
    to: u64,
    len: u64,
) -> io::Result<()> {
    let range = FileCloneRange {
        src_fd: source.as_raw_fd().into(),
        src_offset: from,
        src_length: len,
        dest_offset: to,
    };
    loop {
        // SAFETY: FICLONERANGE only reads the structure that the pointer refers to, which has the
        // layout that the kernel documents and lives until the call returns. Both descriptors
        // belong to `File`s that are borrowed until then. The call changes file contents, but none
        // of our memory.
        match unsafe { ficlonerange(target.as_raw_fd(), &raw const range) } {
            Ok(_) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Whether `e` only means that these two files, or ranges, cannot share blocks.
pub(super) fn cannot_share(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(
            libc::EOPNOTSUPP
                | libc::EXDEV
                | libc::EINVAL
                | libc::ENOTTY
                | libc::ENOSYS
                | libc::EPERM
                | libc::EACCES
                | libc::EBADF
                | libc::ETXTBSY
                | libc::EISDIR
        )
    )
}
