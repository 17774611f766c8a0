//! The virtual disk: a table of regions, a copy-on-write overlay over it, and the one read and
//! write path that every face (FUSE, finalize) serves from.
//!
//! Knows nothing of guests, Xen or FUSE; calls only `image`.

mod check;
mod extents;
mod header;
mod marks;
mod overlay;
mod qcow2;
mod region;
mod saved;
mod scratch;
mod serve;
mod snapshot;
mod stacked;

pub use overlay::{Base, Overlay, Run};
pub use qcow2::Qcow2Overlay;
pub use region::{Region, RegionKind, RegionTable, Source};
pub use scratch::{Scratch, temporary_dir};
pub use serve::{BootPlanner, Chunk, Disk, Stored};
pub use snapshot::Snapshot;
pub use stacked::Stacked;
