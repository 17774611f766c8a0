//! Loop devices for open files. See loop(4).
//!
//! losetup(8) and mount(8) take a path and look it up again; the file to be attached here has no
//! path.

use nix::fcntl::OFlag;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// `LO_FLAGS_AUTOCLEAR` (linux/loop.h): the device releases its file when nobody has the device
/// open.
const AUTOCLEAR: u32 = 4;

/// `struct loop_info64` (linux/loop.h).
#[repr(C)]
struct LoopInfo {
    /// `lo_device`, `lo_inode`, `lo_rdevice`, `lo_offset`, `lo_sizelimit`.
    backing: [u64; 5],
    /// `lo_number`, `lo_encrypt_type`, `lo_encrypt_key_size`.
    numbers: [u32; 3],
    flags: u32,
    /// `lo_file_name`, `lo_crypt_name`, `lo_encrypt_key`.
    names: [u8; 160],
    init: [u64; 2],
}

mod calls {
    nix::ioctl_none_bad!(loop_ctl_get_free, 0x4C82);
    nix::ioctl_write_int_bad!(loop_set_fd, 0x4C00);
    nix::ioctl_write_ptr_bad!(loop_set_status64, 0x4C04, super::LoopInfo);
}

/// A loop device; it stays attached as long as this value exists or it is mounted.
pub(super) struct LoopDevice {
    pub(super) path: PathBuf,
    _device: File,
}

impl LoopDevice {
    /// Attach `file` to a free device.
    ///
    /// # Errors
    /// ENOENT without the loop driver, EPERM without CAP_SYS_ADMIN.
    pub(super) fn attach(file: &File) -> io::Result<Self> {
        let control = File::options().read(true).write(true).open("/dev/loop-control")?;
        loop {
            let number = get_free(&control)?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(OFlag::O_CLOEXEC.bits())
                .open(&path)?;
            match set_up(&device, file) {
                // Another process took the device first.
                Err(nix::Error::EBUSY) => {}
                Err(e) => return Err(e.into()),
                Ok(()) => return Ok(Self { path, _device: device }),
            }
        }
    }
}

#[expect(unsafe_code, reason = "an ioctl")]
fn get_free(control: &File) -> nix::Result<i32> {
    // SAFETY: the call takes no argument.
    unsafe { calls::loop_ctl_get_free(control.as_raw_fd()) }
}

#[expect(unsafe_code, reason = "an ioctl")]
fn set_up(device: &File, file: &File) -> nix::Result<()> {
    let info = LoopInfo {
        backing: [0; 5],
        numbers: [0; 3],
        flags: AUTOCLEAR,
        names: [0; 160],
        init: [0; 2],
    };
    // SAFETY: the argument is a descriptor, which the kernel checks.
    unsafe { calls::loop_set_fd(device.as_raw_fd(), file.as_raw_fd()) }?;
    // SAFETY: `info` has the layout of `struct loop_info64` and outlives the call, which only reads it.
    unsafe { calls::loop_set_status64(device.as_raw_fd(), &info) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_structure_has_this_size() {
        assert_eq!(size_of::<LoopInfo>(), 232);
    }
}
