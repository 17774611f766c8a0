//! synthdisk shows a whole virtual disk made from an untouched Xen partition image.
//!
//! The crate is laid out as rooms, one module per concept; `docs/ARCHITECTURE.md` says what each
//! owns and which may call which. Arrows point down only.

pub mod adapt;
pub mod bootmenu;
pub mod bytes;
pub mod cli;
pub mod disk;
pub mod edit;
pub mod error;
pub mod finalize;
pub mod fs;
pub mod fuse;
pub mod guest;
pub mod identity;
pub mod image;
pub mod initrd;
pub mod inspect;
pub mod layout;
pub mod libvirt;
pub mod loader;
pub mod plan;
pub mod qemu;
pub mod run;
pub mod text;
pub mod tool;
pub mod xen;

pub use error::{Error, ErrorKind, Result};
