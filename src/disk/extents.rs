//! Data and hole extents of a disk, computed from its overlay and its regions.

use super::overlay::{Overlay, Run};
use super::region::RegionTable;
use crate::bytes::{Extent, Extents};
use std::io;

/// The extent that contains `at`, as far as one lookup shows: its end is after `at` and at most
/// `len`.
pub(super) fn one_extent(
    overlay: Option<&dyn Overlay>,
    table: &RegionTable,
    at: u64,
    len: u64,
) -> io::Result<Extent> {
    let (run, n) = match overlay {
        Some(overlay) => overlay.run_at(at, len - at)?,
        None => (Run::Base, len - at),
    };
    let extent = match run {
        Run::Data => Extent { data: true, end: at + n },
        Run::Zero => Extent { data: false, end: at + n },
        Run::Base => {
            let found = table.extent_at(at)?;
            Extent { data: found.data, end: found.end.min(at + n) }
        }
    };
    Ok(Extent { data: extent.data, end: extent.end.clamp(at + 1, len) })
}

/// The extent at `offset`, merged with adjacent extents of the same kind, on a disk of `len` bytes.
pub(super) fn joined_extents(
    len: u64,
    offset: u64,
    extent_at: impl Fn(u64) -> io::Result<Extent>,
) -> io::Result<Extent> {
    let mut whole: Option<Extent> = None;
    let mut at = offset;
    while at < len {
        let one = extent_at(at)?;
        match &mut whole {
            None => whole = Some(one),
            Some(run) if run.data == one.data => run.end = one.end,
            Some(_) => break,
        }
        at = one.end;
    }
    Ok(whole.unwrap_or(Extent { data: false, end: len }))
}
