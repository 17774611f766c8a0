//! Loaders: what starts a guest's kernel from a disk, and the header by which a Linux kernel says
//! how it wants to be loaded.
//!
//! Numbers and bytes in, bytes out, no I/O. `docs/direct-loader.md` describes the disk format that
//! [`direct`] and its assembly source share.

pub mod direct;
pub mod linux;

pub use linux::{KernelKind, SetupHeader};
