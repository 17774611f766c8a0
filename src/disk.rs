//! The virtual disk: a table of regions, a copy-on-write overlay on top of it, and the read and
//! write path that every export (FUSE, finalize) uses.
//!
//! It does not depend on guests, Xen or FUSE, and uses only `image`.

mod atomic_bitmap;
mod check;
mod extents;
mod header;
mod layered;
mod overlay;
mod pace;
mod preserved;
mod qcow2;
mod quota;
mod read_set;
mod region;
mod replanning;
mod scratch;
mod seal;
mod serve;
mod snapshot;
mod storage;
mod sync;

pub use layered::LayeredOverlay;
pub use overlay::{Base, Overlay, Run};
pub use qcow2::Qcow2Overlay;
pub use read_set::ReadSet;
pub use region::{Region, RegionKind, RegionTable, Source};
pub use replanning::{BootPlanner, GapPlan, Validity};
pub use scratch::{Scratch, temporary_dir};
pub use serve::{Chunk, Disk, Stored, Unlocked};
pub use snapshot::Snapshot;
#[cfg(test)]
mod testing;
