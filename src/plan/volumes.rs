//! The logical volumes of a guest, as found and read for planning.

use super::disk_builder::DiskBuilder;
use super::examine::{Examiner, Place, SourceId};
use super::planned_disk::{PartitionReader, PlannedDisk};
use super::planned_from::PlannedFrom;
use super::planned_volume::{PlannedVolume, volume_file_name};
use super::types::{PartitionNames, VolumeName};
use crate::Result;
use crate::bytes::{ReadAt, SharedBytes};
use crate::disk::ReadSet;
use crate::fs::probe::{HEAD_LEN, ImageContent, probe, uuid_text};
use crate::image::Image;
use crate::layout::PartitionKind;
use crate::lvm::{Survey, Volume, VolumeBytes, VolumeMap};
use std::sync::{Arc, Weak};

/// Most volumes of a guest.
const MAX_VOLUMES: usize = 200;

/// A partition that holds a physical volume.
#[derive(Debug)]
struct PhysicalPart {
    /// Index of its disk.
    disk: usize,
    number: u32,
    /// Its name in messages.
    name: String,
    read_only: bool,
    image: Arc<dyn Image>,
    from: Arc<PlannedFrom>,
}

/// A logical volume.
#[derive(Debug)]
pub(super) struct FoundVolume {
    volume: Volume,
    /// What it holds.
    pub(super) content: ImageContent,
    /// It, for the examination of the guest.
    pub(super) source: SourceId,
    /// Its map and its UUID according to the images alone, if they were read before.
    pristine: Option<(VolumeMap, Option<String>)>,
    read_only: bool,
}

impl FoundVolume {
    /// Name of its file in a mount.
    pub(super) fn file(&self) -> String {
        volume_file_name(&self.volume.group, &self.volume.name)
    }

    fn uuid(&self) -> Option<String> {
        self.content.uuid().map(|uuid| uuid_text(&uuid))
    }

    fn is_swap(&self) -> bool {
        matches!(self.content, ImageContent::Swap { .. })
    }

    fn names(&self) -> PartitionNames {
        let Volume { group, name, uuid, .. } = &self.volume;
        let now = self.uuid();
        let before = self.pristine.as_ref().and_then(|(_, uuid)| uuid.clone());
        PartitionNames {
            disk: String::new(),
            vdev: String::new(),
            number: 0,
            kind: if self.is_swap() { PartitionKind::Swap } else { PartitionKind::Linux },
            former: before.filter(|uuid| Some(uuid) != now.as_ref()).into_iter().collect(),
            uuid: now,
            label: self.content.label().map(str::to_owned),
            partuuid: String::new(),
            read_only: self.read_only,
            volume: Some(VolumeName {
                group: group.clone(),
                name: name.clone(),
                uuid: uuid.clone(),
            }),
        }
    }
}

/// The logical volumes of a guest.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    parts: Vec<PhysicalPart>,
    found: Vec<FoundVolume>,
    /// What cannot be read, for the user.
    pub(super) problems: Vec<String>,
    /// Physical volumes or groups that cannot be told apart.
    pub(super) copies: Option<String>,
    /// Index of the first volume among the resolver's partitions.
    first: usize,
}

impl Volumes {
    /// The volumes in partitions of `disks`, according to their images.
    ///
    /// # Errors
    /// When there are too many partitions.
    pub(super) fn find(disks: &[DiskBuilder], examiner: &Examiner) -> Result<Self> {
        let mut out = Self::default();
        for (disk, builder) in disks.iter().enumerate() {
            out.first += builder.names().len();
            let parts = builder.partitions().iter().filter(|p| p.image.holds_volumes());
            out.parts.extend(parts.map(|p| PhysicalPart {
                disk,
                number: p.number,
                name: format!("partition {} of {}", p.number, builder.source.vdev),
                read_only: p.read_only,
                image: Arc::clone(&p.image.image),
                from: Arc::new(PlannedFrom::new(&p.image.image)),
            }));
        }
        let sources: Vec<_> = out.parts.iter().map(|part| Arc::clone(&part.from)).collect();
        out.look(examiner, sources)?;
        Ok(out)
    }

    /// Looks again, through the overlays of `disks`: the guest may have changed its volumes.
    ///
    /// # Errors
    /// When there are too many partitions.
    pub(super) fn refresh(&mut self, disks: &[PlannedDisk], examiner: &Examiner) -> Result<()> {
        let reader = |part: &PhysicalPart| disks.get(part.disk)?.partition(part.number);
        let Some(sources) = self.parts.iter().map(reader).collect::<Option<Vec<_>>>() else {
            return Ok(());
        };
        let before = std::mem::take(&mut self.found);
        self.problems.clear();
        self.look(examiner, sources)?;
        for found in &mut self.found {
            let same = before.iter().find(|old| old.volume.uuid == found.volume.uuid);
            found.pristine = same.map(|old| (old.volume.map.clone(), old.uuid()));
        }
        Ok(())
    }

    fn look<R>(&mut self, examiner: &Examiner, sources: Vec<R>) -> Result<()>
    where
        R: ReadAt + Clone + Send + Sync + 'static,
    {
        let survey = self.survey(examiner, &sources)?;
        self.problems = survey.problems;
        self.copies = survey.copies;
        if survey.volumes.len() > MAX_VOLUMES {
            self.problems.push(format!("only the first {MAX_VOLUMES} logical volumes are shown"));
        }
        for volume in survey.volumes.into_iter().take(MAX_VOLUMES) {
            let bytes = VolumeBytes::new(volume.map.clone(), sources.clone());
            let mut head = vec![0; bytes.len().min(HEAD_LEN as u64) as usize];
            let content = match bytes.read_at(&mut head, 0) {
                Ok(()) => probe(&head, bytes.len()),
                Err(_) => ImageContent::Unknown,
            };
            let name = format!("the logical volume {}/{}", volume.group, volume.name);
            let source = examiner.add(&name, Arc::new(bytes))?;
            let is_read_only = |source: usize| self.parts.get(source).is_some_and(|p| p.read_only);
            let on_read_only = volume.map.stored().any(|range| is_read_only(range.source));
            let read_only = !volume.writable || on_read_only;
            self.found.push(FoundVolume { volume, content, source, pristine: None, read_only });
        }
        Ok(())
    }

    fn survey<R>(&self, examiner: &Examiner, sources: &[R]) -> Result<Survey>
    where
        R: ReadAt + Clone + Send + Sync + 'static,
    {
        if sources.is_empty() {
            return Ok(Survey::default());
        }
        let mut places = Vec::new();
        for (part, source) in self.parts.iter().zip(sources) {
            let id = examiner.add(&part.name, Arc::new(source.clone()))?;
            places.push((id, part.name.clone()));
        }
        Ok(examiner.volumes(places).unwrap_or_else(|e| Survey {
            problems: vec![format!("the guest's logical volumes are not known: {e}")],
            ..Survey::default()
        }))
    }

    /// Whether there are physical volumes in partitions of the disk with this index.
    pub(super) fn use_disk(&self, disk: usize) -> bool {
        self.parts.iter().any(|part| part.disk == disk)
    }

    /// From now on, the physical volumes are read from the `disks`. `reads` is told what is read of
    /// the first one.
    pub(super) fn attach(&self, disks: &[PlannedDisk], reads: &Arc<ReadSet>) {
        for part in &self.parts {
            if let Some(reader) = disks.get(part.disk).and_then(|d| d.partition(part.number)) {
                let noted = (part.disk == 0).then(|| Arc::clone(reads));
                part.from.attach(reader.noted(noted));
            }
        }
    }

    /// The names of the volumes, in the order of their indices.
    pub(super) fn names(&self) -> Vec<PartitionNames> {
        self.found.iter().map(FoundVolume::names).collect()
    }

    /// Index of the first volume among the resolver's partitions.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// The volume with this index among the resolver's partitions.
    pub(super) fn at(&self, index: usize) -> Option<&FoundVolume> {
        self.found.get(index.checked_sub(self.first)?)
    }

    /// The volumes that may hold a filesystem, with their indices.
    pub(super) fn places(&self) -> Vec<Place> {
        let all = (self.first..).zip(&self.found).filter(|(_, found)| !found.is_swap());
        all.map(|(index, found)| (index, found.source)).collect()
    }

    /// A volume as the images alone have it.
    pub(super) fn pristine(&self, found: &FoundVolume) -> VolumeBytes<Arc<dyn Image>> {
        let map = found.pristine.as_ref().map_or(&found.volume.map, |(map, _)| map);
        let images = self.parts.iter().map(|part| Arc::clone(&part.image)).collect();
        VolumeBytes::new(map.clone(), images)
    }

    /// The volumes as they are served.
    pub(super) fn planned(&self) -> Vec<PlannedVolume> {
        let parts: Vec<_> = self.parts.iter().map(|part| (part.disk, part.number)).collect();
        let planned = |found: &FoundVolume| PlannedVolume {
            file: found.file(),
            group: found.volume.group.clone(),
            name: found.volume.name.clone(),
            map: found.volume.map.clone(),
            parts: parts.clone(),
            read_only: found.read_only,
        };
        self.found.iter().map(planned).collect()
    }

    /// The volumes as they are read through the disks, now and later.
    pub(super) fn live(&self, disks: &[PlannedDisk]) -> LiveVolumes {
        let live = |part: &PhysicalPart| {
            let reader = disks.get(part.disk)?.partition(part.number)?;
            Some(LivePart { name: part.name.clone(), reader, first: part.disk == 0 })
        };
        let uuids = (self.first..).zip(&self.found).filter(|(_, found)| !found.is_swap());
        LiveVolumes {
            parts: self.parts.iter().filter_map(live).collect(),
            uuids: uuids.map(|(index, found)| (index, found.volume.uuid.clone())).collect(),
        }
    }
}

/// A physical volume that is read through its disk.
#[derive(Clone, Debug)]
struct LivePart {
    name: String,
    reader: PartitionReader,
    /// Whether it is on the first disk.
    first: bool,
}

/// Logical volumes that are read through the disks. Each plan reads their metadata again, which the
/// guest may have changed.
#[derive(Clone, Debug)]
pub(super) struct LiveVolumes {
    parts: Vec<LivePart>,
    /// The volumes: index among the resolver's partitions, and UUID.
    uuids: Vec<(usize, String)>,
}

impl LiveVolumes {
    /// The same volumes, with the first disk replaced by another one, which is as long.
    pub(super) fn on(&self, disk: &Weak<SharedBytes>) -> Self {
        let mut out = self.clone();
        for part in out.parts.iter_mut().filter(|part| part.first) {
            part.reader = part.reader.clone().on(disk);
        }
        out
    }

    /// Lets `examiner` read those that are there now; `reads` is told what is read of the first
    /// disk.
    ///
    /// # Errors
    /// When it has too many sources; if the guest could not be examined.
    pub(super) fn places(
        &self,
        examiner: &Examiner,
        reads: Option<&Arc<ReadSet>>,
    ) -> Result<Vec<Place>> {
        if self.uuids.is_empty() {
            return Ok(Vec::new());
        }
        let noted = |part: &LivePart| {
            part.reader.clone().noted(reads.filter(|_| part.first).map(Arc::clone))
        };
        let readers: Vec<_> = self.parts.iter().map(noted).collect();
        let mut parts = Vec::new();
        for (part, reader) in self.parts.iter().zip(&readers) {
            parts.push((examiner.add(&part.name, Arc::new(reader.clone()))?, part.name.clone()));
        }
        let survey = examiner.volumes(parts)?;
        let mut out = Vec::new();
        for (index, uuid) in &self.uuids {
            let Some(volume) = survey.volumes.iter().find(|v| v.uuid == *uuid) else { continue };
            let name = format!("the logical volume {}/{}", volume.group, volume.name);
            let bytes = VolumeBytes::new(volume.map.clone(), readers.clone());
            out.push((*index, examiner.add(&name, Arc::new(bytes))?));
        }
        Ok(out)
    }
}
