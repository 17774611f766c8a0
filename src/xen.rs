//! Xen domU configs: reading `/etc/xen/NAME.cfg`.
//!
//! Owns the config grammar (xl.cfg(5)), disk specs (xl-disk-configuration(5)), device names
//! (xen-vbd-interface(7)), network specs (xl-network-configuration(5)), and the description of a guest
//! in an XVA. Reads no file except the config itself; the caller checks whether an image exists.
//!
//! Start at [`DomainConfig`]. All input is untrusted: sizes, nesting and counts are limited.

mod boot;
pub mod config;
pub mod disk;
pub mod domain;
mod layout;
mod lexer;
mod notes;
mod ova;
pub mod vdev;
pub mod vif;

pub use boot::{BootMethod, Bootloader, BootloaderKind, GuestKind};
pub use config::{Assignment, Config, ListItem, MAX_CONFIG_BYTES, Number, Value};
pub use disk::{Access, DiskFormat, DiskSpec};
pub use domain::DomainConfig;
pub use layout::{GuestDisk, GuestDiskContent};
pub use notes::Note;
pub use vdev::parse_vdev;
pub use vif::{Vif, VifKind};
