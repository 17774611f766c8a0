//! Loaders: code that starts a guest's kernel from a disk, and the header in which a Linux kernel
//! describes how to load it.
//!
//! Numbers and bytes in, bytes and [regions](crate::disk::Region) out; only [`Loader::install`] does
//! I/O, for loaders that are made from files of the host. A loader is one folder with an
//! implementation of [`Loader`], its `mod` line here, and its row in `loader/list.rs`.
//! `docs/direct-loader.md` describes the disk format that [`direct`] and its assembly source share,
//! `docs/grub.md` what `grub` does, `docs/uefi.md` what both do on UEFI.

mod api;
pub mod direct;
mod efi_partition;
mod firmware;
pub mod grub;
pub mod linux;
mod list;
mod none;
mod payload;

pub use api::{BootOrder, Chooses, InstalledLoader, Loader, Space, WantedPartition};
pub use firmware::FirmwareSet;
pub use linux::{EfiStub, KernelKind, SetupHeader};
pub use list::LoaderKind;
pub use payload::{Limits, MenuRules, Payload, PayloadFile};
