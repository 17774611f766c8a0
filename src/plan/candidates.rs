//! Partitions that may contain what boots, and how they are read.

use super::disk_builder::DiskBuilder;
use super::examine::{Examiner, Place, SourceId};
use super::planned_disk::{PartitionReader, PlannedDisk};
use super::planned_from::PlannedFrom;
use super::types::PartitionSource;
use super::volumes::Volumes;
use crate::Result;
use crate::bytes::SharedBytes;
use crate::disk::ReadSet;
use std::sync::{Arc, Weak};

/// A partition: its index among the resolver's partitions, the index of its disk, and its number.
#[derive(Clone, Copy, Debug)]
struct Partition {
    index: usize,
    disk: usize,
    number: u32,
}

/// Partitions that may hold the boot configuration, in the order in which they were listed, after
/// partition `root`; the first disk's come first among the resolver's partitions.
fn first_disk(disk: &DiskBuilder, root: Option<u32>) -> Vec<Partition> {
    let mut all: Vec<_> = disk.partitions().iter().enumerate().collect();
    // Without a table of its own, a partition was named to be looked into.
    all.retain(|(_, p)| may_hold_files(p) && (p.partuuid.is_none() || p.image.has_filesystem()));
    all.sort_by_key(|(_, p)| (Some(p.number) != root, p.listed));
    all.into_iter().map(|(index, p)| Partition { index, disk: 0, number: p.number }).collect()
}

/// Whether the partition itself may hold a filesystem.
fn may_hold_files(p: &PartitionSource) -> bool {
    !p.kind.is_swap() && !p.image.holds_volumes()
}

/// Partitions of further disks that may hold the root filesystem.
fn elsewhere(disks: &[DiskBuilder]) -> Vec<Partition> {
    let mut out = Vec::new();
    let mut start = 0;
    for (k, disk) in disks.iter().enumerate() {
        let partitions = disk.partitions().iter().enumerate().filter(|_| k > 0);
        let linux = partitions.filter(|(_, p)| may_hold_files(p));
        out.extend(linux.map(|(i, p)| Partition { index: start + i, disk: k, number: p.number }));
        start += disk.names().len();
    }
    out
}

/// Name of a partition in messages.
fn name(vdev: &str, number: u32) -> String {
    format!("partition {number} of {vdev}")
}

/// The guest's partitions, as read for planning.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// The first disk's, in the order in which they are tried, then the logical volumes.
    pub(super) candidates: Vec<Place>,
    /// Those of further disks.
    pub(super) others: Vec<Place>,
    sources: Vec<(Partition, Arc<PlannedFrom>)>,
    /// The logical volumes.
    pub(super) volumes: Volumes,
}

impl Places {
    /// The partitions of `disks`, read from their images until [`Places::attach`]. `root` is the
    /// number of the root partition on the first disk, if the user has named it.
    ///
    /// # Errors
    /// When there are too many.
    pub(super) fn new(
        disks: &[DiskBuilder],
        examiner: &Examiner,
        root: Option<u32>,
    ) -> Result<Self> {
        let mut out = Self::default();
        let Some(first) = disks.first() else { return Ok(out) };
        for partition in first_disk(first, root).into_iter().chain(elsewhere(disks)) {
            let builder = &disks[partition.disk];
            let number = partition.number;
            let source = builder.partitions().iter().find(|p| p.number == number);
            let Some(source) = source else { continue };
            let from = Arc::new(PlannedFrom::new(&source.image.image));
            let id = examiner.add(&name(&builder.source.vdev, number), Arc::clone(&from) as _)?;
            out.sources.push((partition, from));
            let list = if partition.disk == 0 { &mut out.candidates } else { &mut out.others };
            list.push((partition.index, id));
        }
        out.volumes = Volumes::find(disks, examiner)?;
        out.candidates.extend(out.volumes.places());
        Ok(out)
    }

    /// Looks for logical volumes again, through the overlays of `disks`.
    ///
    /// # Errors
    /// When there are too many.
    pub(super) fn refresh_volumes(
        &mut self,
        disks: &[PlannedDisk],
        examiner: &Examiner,
    ) -> Result<()> {
        self.volumes.refresh(disks, examiner)?;
        self.candidates.retain(|(index, _)| *index < self.volumes.first());
        self.candidates.extend(self.volumes.places());
        Ok(())
    }

    /// The source of partition `index` of the resolver.
    pub(super) fn source(&self, index: usize) -> Option<SourceId> {
        let all = self.candidates.iter().chain(&self.others);
        all.into_iter().find(|(i, _)| *i == index).map(|(_, source)| *source)
    }

    /// From now on, the partitions are read from the `disks`. `reads` is told what is read of the
    /// first one, and what was read of its images so far.
    pub(super) fn attach(&self, disks: &[PlannedDisk], reads: &Arc<ReadSet>) {
        for (partition, from) in &self.sources {
            let reader = disks.get(partition.disk).and_then(|d| d.partition(partition.number));
            if let Some(reader) = reader {
                let noted = (partition.disk == 0).then(|| Arc::clone(reads));
                from.attach(reader.noted(noted));
            }
        }
        self.volumes.attach(disks, reads);
    }

    /// Readers for the partitions through the `disks` and their overlays: those of the first disk,
    /// and those of further disks. Logical volumes are not among them.
    pub(super) fn readers(&self, disks: &[PlannedDisk]) -> [Vec<LivePartition>; 2] {
        let live = |partition: &Partition| {
            let disk = &disks[partition.disk];
            let reader = disk.partition(partition.number)?;
            let name = name(&disk.vdev, partition.number);
            Some(LivePartition { index: partition.index, name, reader })
        };
        let all = || self.sources.iter().map(|(partition, _)| partition);
        let of = |first: bool| all().filter(move |p| (p.disk == 0) == first);
        [of(true).filter_map(live).collect(), of(false).filter_map(live).collect()]
    }
}

/// A partition that is read through its disk.
#[derive(Clone, Debug)]
pub(super) struct LivePartition {
    /// Its index among the resolver's partitions.
    index: usize,
    name: String,
    reader: PartitionReader,
}

impl LivePartition {
    /// The same partition of another disk, which is as long.
    pub(super) fn on(&self, disk: &Weak<SharedBytes>) -> Self {
        Self { reader: self.reader.clone().on(disk), ..self.clone() }
    }

    /// Lets `examiner` read it; `reads` is told what is read.
    ///
    /// # Errors
    /// When it has too many sources.
    pub(super) fn place(&self, examiner: &Examiner, reads: Option<&Arc<ReadSet>>) -> Result<Place> {
        let reader = self.reader.clone().noted(reads.map(Arc::clone));
        Ok((self.index, examiner.add(&self.name, Arc::new(reader))?))
    }
}
