//! Which partitions may hold what boots, and what boots from them before there is a disk.

use super::build::PlannedDisk;
use super::disks::Prepared;
use super::gap::PartitionReader;
use super::guest::BootWish;
use super::payload::{Candidate, Payload, from_guest, from_host};
use super::roots::CmdlineRules;
use crate::Result;
use crate::image::Image;
use std::sync::Arc;

/// Partitions that may hold the boot configuration, first what was listed first: their index among
/// the rules' partitions (the first disk's come first there) and their number.
fn candidates(disk: &Prepared) -> Vec<(usize, u32)> {
    let mut all: Vec<_> = disk.partitions().iter().enumerate().collect();
    all.retain(|(_, p)| !p.image.is_swap());
    all.sort_by_key(|(_, p)| p.listed);
    all.into_iter().map(|(i, p)| (i, p.number)).collect()
}

/// What boots, read from the images themselves; `None` when that is not ours to do or the layout
/// is settled anyway.
pub(super) fn preview(
    boot: &BootWish,
    rules: &CmdlineRules,
    disks: &[Prepared],
) -> Result<Option<Payload>> {
    let disk = &disks[0];
    if disk.layout.is_some() {
        return Ok(None);
    }
    match boot {
        BootWish::Nothing => Ok(None),
        BootWish::Host { kernel, initrds, cmdline } => {
            // What is wrong with these files is said when they are opened for good.
            Ok(from_host(kernel, initrds, cmdline, rules, image_readers(disk)).ok())
        }
        BootWish::Guest(wish) => {
            let other = |(k, i, number): (usize, usize, u32)| {
                let source = disks[k].partitions().iter().find(|p| p.number == number)?;
                Some((i, Arc::clone(&source.image.image)))
            };
            let others: Vec<_> = elsewhere(disks).into_iter().filter_map(other).collect();
            from_guest(&image_readers(disk), &others, wish, rules).map(Some)
        }
    }
}

/// Partitions of the further disks, which may hold the root filesystem: the disk's index, their own
/// among the rules' partitions, and their number.
fn elsewhere(disks: &[Prepared]) -> Vec<(usize, usize, u32)> {
    let mut out = Vec::new();
    let mut index = 0;
    for (k, disk) in disks.iter().enumerate() {
        let partitions = disk.partitions().iter().enumerate().filter(|_| k > 0);
        let linux = partitions.filter(|(_, p)| !p.image.is_swap());
        out.extend(linux.map(|(i, p)| (k, index + i, p.number)));
        index += disk.names().len();
    }
    out
}

/// The candidates, read from the images themselves.
pub(super) fn image_readers(disk: &Prepared) -> Vec<(usize, Arc<dyn Image>)> {
    let reader = |(i, number)| {
        let source = disk.partitions().iter().find(|p| p.number == number)?;
        Some((i, Arc::clone(&source.image.image)))
    };
    candidates(disk).into_iter().filter_map(reader).collect()
}

/// The first disk's partitions that may hold the boot configuration, and those of further disks that
/// may hold the root filesystem, read through their overlays.
pub(super) fn readers(
    planned: &[PlannedDisk],
    prepared: &[Prepared],
) -> [Vec<Candidate<PartitionReader>>; 2] {
    let reader = |(k, i, number): (usize, usize, u32)| {
        planned[k].partition(number).map(|reader| (i, reader))
    };
    let first = candidates(&prepared[0]).into_iter().map(|(i, number)| (0, i, number));
    let others = elsewhere(prepared).into_iter();
    [first.filter_map(reader).collect(), others.filter_map(reader).collect()]
}
