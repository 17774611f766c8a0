//! Starting Linux from the disk itself: the direct loader's code and its parameter block, and the
//! header by which a kernel says how it wants to be loaded.
//!
//! Pure computing: numbers and bytes in, bytes out, no I/O. `docs/direct-loader.md` has the disk
//! contract that [`loader`], [`params`] and `loader.S` share.

pub mod insmod;
pub mod linux;
pub mod loader;
pub mod params;

pub use linux::{KernelKind, SetupHeader};
pub use params::Params;
