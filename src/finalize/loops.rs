//! Finds the file of a loop device, even if the name under which it was attached is gone.
//!
//! Source: loop(4), `LOOP_GET_STATUS64`.

#![expect(unsafe_code, reason = "an ioctl that writes to a structure of ours")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `struct loop_info64` of `linux/loop.h`, all 232 bytes.
#[repr(C)]
#[derive(Debug)]
pub struct LoopInfo64 {
    /// Device number of the filesystem that the file is on, as stat(2) gives it.
    device: u64,
    inode: u64,
    rest: [u64; 27],
}

nix::ioctl_read_bad!(loop_get_status64, 0x4C05, LoopInfo64);

/// Device and inode of the file that the loop device at `path` shows, if the kernel reports it.
pub(super) fn file_behind(path: &Path) -> Option<(u64, u64)> {
    let device = File::open(path).ok()?;
    let mut info = LoopInfo64 { device: 0, inode: 0, rest: [0; 27] };
    // SAFETY: the kernel writes one `struct loop_info64` through the pointer, which has space for
    // it: the structure is as long as the kernel's and lives until the call returns, as does the
    // `File` that owns the descriptor. All bit patterns are valid for its fields.
    unsafe { loop_get_status64(device.as_raw_fd(), &raw mut info) }.ok()?;
    Some((info.device, info.inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_long_as_the_kernels() {
        assert_eq!(size_of::<LoopInfo64>(), 232);
        assert_eq!(file_behind(Path::new("/dev/null")), None);
        assert_eq!(file_behind(Path::new("/missing")), None);
    }
}
