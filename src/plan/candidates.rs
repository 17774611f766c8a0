//! Partitions that may contain what boots, and readers for them.

use super::disk_builder::DiskBuilder;
use super::planned_disk::{PartitionReader, PlannedDisk};
use super::types::Candidate;
use crate::image::Image;
use std::sync::Arc;

/// Partitions that may hold the boot configuration, in the order in which they were listed: their
/// index among the resolver's partitions (where the first disk's come first), and their number.
fn candidates(disk: &DiskBuilder) -> Vec<(usize, u32)> {
    let mut all: Vec<_> = disk.partitions().iter().enumerate().collect();
    all.retain(|(_, p)| !p.image.is_swap());
    all.sort_by_key(|(_, p)| p.listed);
    all.into_iter().map(|(i, p)| (i, p.number)).collect()
}

/// Partitions of further disks that may hold the root filesystem: the disk's index, the partition's
/// index among the resolver's partitions, and its number.
fn elsewhere(disks: &[DiskBuilder]) -> Vec<(usize, usize, u32)> {
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

/// The first disk's candidates, read directly from the images.
pub(super) fn image_readers(disk: &DiskBuilder) -> Vec<(usize, Arc<dyn Image>)> {
    let reader = |(i, number)| {
        let source = disk.partitions().iter().find(|p| p.number == number)?;
        Some((i, Arc::clone(&source.image.image)))
    };
    candidates(disk).into_iter().filter_map(reader).collect()
}

/// Partitions of further disks, read directly from the images.
pub(super) fn other_image_readers(disks: &[DiskBuilder]) -> Vec<(usize, Arc<dyn Image>)> {
    let reader = |(k, i, number): (usize, usize, u32)| {
        let source = disks[k].partitions().iter().find(|p| p.number == number)?;
        Some((i, Arc::clone(&source.image.image)))
    };
    elsewhere(disks).into_iter().filter_map(reader).collect()
}

/// The first disk's partitions that may hold the boot configuration, and the further disks'
/// partitions that may hold the root filesystem, read through their overlays.
pub(super) fn readers(
    planned: &[PlannedDisk],
    builders: &[DiskBuilder],
) -> [Vec<Candidate<PartitionReader>>; 2] {
    let reader = |(k, i, number): (usize, usize, u32)| {
        planned[k].partition(number).map(|reader| (i, reader))
    };
    let first = candidates(&builders[0]).into_iter().map(|(i, number)| (0, i, number));
    let others = elsewhere(builders).into_iter();
    [first.filter_map(reader).collect(), others.filter_map(reader).collect()]
}
