//! What the integration tests share: guests, QEMU with its serial console, mounts, loop devices.

pub mod clock;
pub mod console;
pub mod cpio;
pub mod drive;
pub mod field;
pub mod file;
pub mod filesystem;
pub mod foreign;
pub mod guests;
pub mod hash;
pub mod http;
pub mod lanes;
pub mod lvm;
pub mod map;
pub mod model;
pub mod mount;
pub mod overlay;
pub mod process;
pub mod random;
pub mod serve;
pub mod slots;
pub mod tiny;
pub mod whole;
pub mod xva;
