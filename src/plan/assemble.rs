//! Stage 4: build the disks, make the boot area follow the guest, and plan the edits.

use super::adapting::{Adaptation, AdaptationNotes, LiveGuest, adaptation, adaptation_of};
use super::boot_choice::BootChoice;
use super::candidates::LivePartition;
use super::clone::{clone_edits, only_root, rename_root, root_of};
use super::cloud_init::seed_disk;
use super::created_file::CreatedFile;
use super::disk_builder::DiskBuilder;
use super::disk_source::images_of;
use super::examine::{BootQuestion, Examiner, RemoteFs};
use super::guest_kernel::{GuestKernel, GuestKernelFile};
use super::guest_planner::{GuestPlanner, never_planned, not_planned};
use super::guest_tree::guest_tree;
use super::options::SourceOptions;
use super::payload::from_guest;
use super::planned_disk::{PlannedDisk, disk_file_name};
use super::planned_volume::PlannedVolume;
use super::root_resolver::RootResolver;
use super::survey::Survey;
use super::types::{
    BootRequest, BootSummary, GuestBootRequest, OverlayChoice, PartitionNames, PlannedBoot,
};
use super::unique_names;
use super::whole_disk::{changed_table, whole_disk};
use crate::bytes::ReadAt;
use crate::disk::ReadSet;
use crate::edit::EditWith;
use crate::fs::boot_code::BootCode;
use crate::fs::{GuestFs, GuestTree, Mounted};
use crate::identity::UuidChange;
use crate::loader::{BootOrder, FirmwareSet, LoaderKind};
use crate::qemu::FirmwareKind;
use crate::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A guest's disks, ready to be served.
#[derive(Debug)]
pub struct Plan {
    /// The guest's name.
    pub name: String,
    /// Memory that its config gives it, in MiB.
    pub memory_mib: Option<u64>,
    /// MAC addresses that its config gives it.
    pub macs: Vec<String>,
    /// Its disks; the firmware boots from the first.
    pub disks: Vec<PlannedDisk>,
    /// The logical volumes on them that can be read.
    pub volumes: Vec<PlannedVolume>,
    /// What boots; `None` without one of our boot loaders.
    pub boot: Option<BootSummary>,
    /// The boot code of its image by which the first disk boots, if it does.
    pub own_loader: Option<BootCode>,
    /// The loader on the first disk.
    pub loader: LoaderKind,
    /// The firmware of a machine for the guest.
    pub firmware: FirmwareKind,
    /// Location of the root filesystem.
    pub root: Option<RootPlace>,
    /// Edits that the guest needs, to be made once its partitions are writable. The error says why
    /// the guest cannot be adapted; it then boots unadapted.
    pub adaptation: Result<Option<Adaptation>>,
    /// The images, as absolute paths.
    pub images: Vec<PathBuf>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// UUIDs and labels that several partitions have; they are among the notes too.
    pub shared_names: Vec<String>,
    /// Edits that the guest needs and that cannot be made; they are among the notes too.
    pub left_out: Vec<String>,
    /// Physical volumes or volume groups that the guest cannot tell apart.
    pub copied_group: Option<String>,
    /// What makes the edits.
    pub edit_with: EditWith,
    /// How long the guest's own kernel may take for them, if the user says so.
    pub edit_time: Option<Duration>,
    /// New overlays, which are removed again unless [`Plan::keep`] is called.
    created: Vec<CreatedFile>,
    /// The names of the guest's partitions.
    resolver: RootResolver,
    /// Examines the guest's filesystems, within the budget of this plan.
    examiner: Examiner,
    /// The kernel that boots.
    kernel: Option<GuestKernelFile>,
}

/// Where a root filesystem is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RootPlace {
    /// In a partition.
    Partition {
        /// Index of its disk in the plan.
        disk: usize,
        /// Its number.
        number: u32,
    },
    /// On the logical volume with this index in the plan.
    Volume(usize),
}

impl Plan {
    /// The filesystem on a logical volume, as it is now; otherwise like [`Plan::filesystem`].
    ///
    /// # Errors
    /// Those of opening it.
    pub fn volume_filesystem(&self, volume: &PlannedVolume) -> Result<Box<dyn GuestFs>> {
        let none = || Error::new(ErrorKind::NotFound, "the disks have no such volume");
        let bytes = volume.bytes(&self.disks).ok_or_else(none)?;
        let name = format!("the logical volume {}/{}", volume.group, volume.name);
        let source = self.examiner.add(&name, Arc::new(bytes))?;
        Ok(Box::new(RemoteFs::open(&self.examiner, source)?))
    }

    /// The filesystem in a partition of one of the disks, as it is now. It is read by the process
    /// that examines the guest for this plan, within the plan's budget.
    ///
    /// # Errors
    /// `NotFound` if the disk has no such partition; those of opening it.
    pub fn filesystem(&self, disk: &PlannedDisk, number: u32) -> Result<Box<dyn GuestFs>> {
        let none = || Error::new(ErrorKind::NotFound, "the disk has no such partition");
        let reader = disk.partition(number).ok_or_else(none)?;
        let name = format!("partition {number} of {}", disk.vdev);
        let source = self.examiner.add(&name, Arc::new(reader))?;
        Ok(Box::new(RemoteFs::open(&self.examiner, source)?))
    }

    /// All files of the guest: its root filesystem, with the others that its fstab mounts; and the name
    /// of the root's file in a mount. `None` if it is not known which partition the root is.
    ///
    /// # Errors
    /// Those of opening the root filesystem.
    pub fn guest_files(&self) -> Option<(String, Result<GuestTree<'static>>)> {
        let volumes = self.resolver.partitions.len().saturating_sub(self.volumes.len());
        let (file, fs, index) = match self.root? {
            RootPlace::Partition { disk, number } => {
                let disk = &self.disks[disk];
                let is = |p: &PartitionNames| p.disk == disk.letters && p.number == number;
                let index = self.resolver.partitions.iter().position(is);
                (disk.partition_file(number), self.filesystem(disk, number), index)
            }
            RootPlace::Volume(index) => {
                let volume = &self.volumes[index];
                (volume.file.clone(), self.volume_filesystem(volume), Some(volumes + index))
            }
        };
        let open = |index: usize| {
            let p = self.resolver.partitions.get(index)?;
            let fs = match self.volumes.get(index.wrapping_sub(volumes)) {
                Some(volume) => self.volume_filesystem(volume),
                None => {
                    let disk = self.disks.iter().find(|d| !d.cdrom && d.letters == p.disk)?;
                    self.filesystem(disk, p.number)
                }
            };
            Some(Mounted::Own(fs.ok()?))
        };
        let index = index.unwrap_or(usize::MAX);
        let tree = fs.map(|fs| guest_tree(Mounted::Own(fs), index, &self.resolver, open));
        Some((file, tree))
    }

    /// What the kernel that boots needs to make the edits of `adaptation`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when no kernel boots, or when it lacks modules; errors from reading them.
    pub fn guest_kernel(&self, adaptation: &Adaptation) -> Result<GuestKernel> {
        let kernel = self.kernel.as_ref();
        GuestKernel::read(kernel, adaptation, &self.resolver, &self.examiner)
    }

    /// Keeps new overlays; called once the mount has succeeded.
    pub fn keep(&mut self) {
        self.created.drain(..).for_each(CreatedFile::keep);
    }
}

/// Builds the disks of `survey` and everything that belongs to them.
///
/// # Errors
/// Errors from overlays, from a guest that cannot be booted, and from edits that cannot be made.
pub(super) fn assemble(
    mut survey: Survey,
    choice: BootChoice,
    options: &SourceOptions,
    overlays: &OverlayChoice,
) -> Result<Plan> {
    let mut created = Vec::new();
    let disks = build_disks(&mut survey.disks, choice.boot.as_ref(), overlays, &mut created)?;
    let BootChoice { boot, mut resolver, mut uuid } = choice;
    let Survey { guest, disks: builders, examiner, mut places } = survey;
    let mut with_overlay = builders.iter().enumerate().filter(|(_, d)| d.has_overlay());
    if with_overlay.any(|(i, _)| places.volumes.use_disk(i)) {
        places.refresh_volumes(&disks, &examiner)?;
        resolver.partitions.truncate(places.volumes.first());
        resolver.partitions.extend(places.volumes.names());
    }
    let guests =
        LiveGuest { disks: &disks, builders: &builders, examiner: &examiner, places: &places };
    let mut notes = guest.notes;
    for (planned, builder) in disks.iter().zip(&builders).filter(|(_, b)| b.has_overlay()) {
        notes.extend(changed_table(&planned.disk, planned.layout.as_ref(), &builder.source));
    }
    notes.extend(places.volumes.problems.iter().cloned());
    let shared_names = unique_names::notes(&resolver.partitions);
    notes.extend(shared_names.iter().cloned());
    let mut kernel = boot.as_ref().map(GuestKernelFile::of);
    let mut summary = boot.map(|boot| boot.summary);
    if uuid.is_none() {
        uuid = change_uuid(&guests, &guest.boot, summary.as_ref(), &mut resolver, options)?;
        // The root in the guest's command line has changed.
        summary =
            summary.filter(|_| uuid.is_none() || !matches!(guest.boot, BootRequest::Guest(_)));
    }
    if let BootRequest::Guest(request) = &guest.boot {
        let first = summary.is_none().then(|| examiner.clone());
        let latest = follow_guest(&guests, request, resolver.clone(), first)?;
        match summary.is_none().then(|| plan_boot_area(&disks[0], &latest)) {
            None => {}
            Some(Ok(boots)) => {
                kernel = Some(GuestKernelFile::of(&boots));
                summary = Some(boots.summary);
            }
            // A guest that was broken through its overlay must stay accessible for repair.
            Some(Err(e)) if builders[0].has_overlay() => {
                notes.push(format!("nothing boots from this disk as it is now: {e}"));
            }
            Some(Err(e)) => return Err(e),
        }
    }
    let words = summary.as_ref().map(|s| s.cmdline.as_str());
    let mut said = AdaptationNotes::default();
    let adaptation = if !options.identity.is_empty() {
        Ok(clone_edits(&guests, &resolver, words, uuid.as_ref(), options)?)
    } else {
        let edited = *overlays != OverlayChoice::ReadOnly && !resolver.selection.is_none();
        match words.filter(|_| edited) {
            Some(words) => adaptation(&guests, &resolver, words, &mut said),
            // Boot code of the image, as long as the image is not requested as it is.
            None if edited
                && options.bootloader.is_none()
                && own_loader(&builders[0]).is_some() =>
            {
                match only_root(&resolver, &guests) {
                    Some(root) => adaptation_of(&guests, &resolver, root, &mut said),
                    None => Ok(None),
                }
            }
            None => Ok(None),
        }
    };
    if let (None, Ok(Some(_))) = (&kernel, &adaptation) {
        // The image's own boot code starts the guest, and its kernel may have to edit it.
        let boot = boot_now(&guests, &GuestBootRequest::default(), &resolver);
        kernel = boot.ok().as_ref().map(GuestKernelFile::of);
    }
    notes.extend(image_notes(&builders));
    notes.extend(said.general);
    notes.extend(said.left_out.iter().cloned());
    let root = root_place(&guests, &resolver, summary.as_ref());
    let mut plan = Plan {
        name: guest.name,
        memory_mib: guest.memory_mib,
        macs: guest.macs,
        root,
        own_loader: own_loader(&builders[0]),
        volumes: places.volumes.planned(),
        disks,
        loader: builders[0].shape.bootloader,
        firmware: firmware_of(builders[0].shape.firmware),
        boot: summary,
        adaptation,
        images: image_paths(&builders),
        notes,
        shared_names,
        left_out: said.left_out,
        copied_group: places.volumes.copies.clone(),
        edit_with: options.edit_with,
        edit_time: options.edit_time.map(|secs| Duration::from_secs(secs.into())),
        created,
        resolver,
        examiner,
        kernel,
    };
    if let Some(files) = &options.cloud_init {
        let hostname = options.identity.hostname.as_ref();
        plan.disks.push(seed_disk(files, hostname, &mut plan.notes)?);
    }
    Ok(plan)
}

/// The firmware of a machine whose disk boots under `set`: a BIOS, which is faster, if possible.
fn firmware_of(set: FirmwareSet) -> FirmwareKind {
    if set.has_bios() { FirmwareKind::Bios } else { FirmwareKind::Uefi }
}

/// Builds all disks; the first disk's loader starts `boot`.
fn build_disks(
    builders: &mut [DiskBuilder],
    boot: Option<&PlannedBoot>,
    overlays: &OverlayChoice,
    created: &mut Vec<CreatedFile>,
) -> Result<Vec<PlannedDisk>> {
    let mut planned = Vec::new();
    for (i, builder) in builders.iter_mut().enumerate() {
        let boot = boot.filter(|_| i == 0);
        let order = boot.map_or(BootOrder::Undecided, |boot| BootOrder::Start(&boot.payload));
        let disk = Arc::new(builder.build(order, overlays, created)?);
        let cdrom = builder.is_cdrom();
        planned.push(PlannedDisk {
            file: disk_file_name(i, &builder.source.letters, cdrom),
            vdev: builder.source.vdev.clone(),
            letters: builder.source.letters.clone(),
            overlay: builder.overlay_path.as_ref().and_then(|p| p.canonicalize().ok()),
            disk,
            layout: builder.layout.clone(),
            ids: builder.layout.is_some().then_some(builder.ids),
            cdrom,
        });
    }
    Ok(planned)
}

/// Gives the root filesystem the UUID that `options` request, if any.
fn change_uuid(
    guests: &LiveGuest<'_>,
    boot: &BootRequest,
    summary: Option<&BootSummary>,
    resolver: &mut RootResolver,
    options: &SourceOptions,
) -> Result<Option<UuidChange>> {
    let Some(wish) = options.identity.root_uuid else { return Ok(None) };
    let words = summary.map(|s| s.cmdline.clone());
    let words = words.or_else(|| cmdline_now(guests, boot, resolver));
    let root = root_of(resolver, words.as_deref(), guests)?;
    rename_root(resolver, root, wish, guests.builders, &guests.places.volumes)
}

/// Absolute paths of the files of all images, those of backing images included.
fn image_paths(builders: &[DiskBuilder]) -> Vec<PathBuf> {
    let images = builders.iter().flat_map(|d| images_of(&d.source));
    images.flat_map(|(_, image)| image.image.files()).map(|file| file.path).collect()
}

/// What the user should know about where the images' bytes come from.
fn image_notes(builders: &[DiskBuilder]) -> Vec<String> {
    let images = builders.iter().flat_map(|d| images_of(&d.source));
    let mut notes: Vec<String> = images.flat_map(|(_, image)| image.image.notes()).collect();
    notes.sort_unstable();
    notes.dedup();
    notes
}

/// The boot code of its image by which a disk boots.
fn own_loader(first: &DiskBuilder) -> Option<BootCode> {
    let whole = whole_disk(&first.source).filter(|_| first.shape.bootloader.limits().is_none())?;
    Some(whole.boot_code.clone()).filter(|code| !matches!(code, BootCode::Absent(_)))
}

/// The location of the root filesystem: from the user, else from the command line, else from the
/// config's hint, else the first partition that looks like one, or with a filesystem.
fn root_place(
    guests: &LiveGuest<'_>,
    resolver: &RootResolver,
    boot: Option<&BootSummary>,
) -> Option<RootPlace> {
    let told = resolver.root_partition.and_then(|i| resolver.partitions.get(i));
    let hints = [boot.map(|b| b.cmdline.as_str()), resolver.root_hint.as_deref()];
    let named = || hints.into_iter().flatten().find_map(|words| resolver.root_of(words));
    let looked = || {
        let whole = boot.is_none() && whole_disk(&guests.builders[0].source).is_some();
        let index = whole.then(|| root_of(resolver, None, guests).ok()).flatten()?;
        resolver.partitions.get(index)
    };
    let first = || resolver.partitions.iter().find(|p| p.kind.may_hold_root());
    let root = told.or_else(named).or_else(looked).or_else(first)?;
    if root.volume.is_some() {
        let index = resolver.partitions.iter().position(|p| std::ptr::eq(p, root))?;
        return Some(RootPlace::Volume(index.checked_sub(guests.places.volumes.first())?));
    }
    let planned = guests.disks;
    let disk = planned.iter().position(|d| !d.cdrom && d.letters == root.disk)?;
    Some(RootPlace::Partition { disk, number: root.number })
}

/// The command line in the guest's current boot configuration.
fn cmdline_now(
    guests: &LiveGuest<'_>,
    boot: &BootRequest,
    resolver: &RootResolver,
) -> Option<String> {
    let BootRequest::Guest(request) = boot else { return None };
    Some(boot_now(guests, request, resolver).ok()?.summary.cmdline)
}

/// What the guest's current boot configuration starts.
///
/// # Errors
/// Those of [`from_guest`].
fn boot_now(
    guests: &LiveGuest<'_>,
    request: &GuestBootRequest,
    resolver: &RootResolver,
) -> Result<PlannedBoot> {
    let place = |p: &LivePartition| p.place(guests.examiner, None).ok();
    let [candidates, others] = guests.places.readers(guests.disks);
    let mut candidates: Vec<_> = candidates.iter().filter_map(place).collect();
    let volumes = guests.places.volumes.live(guests.disks);
    candidates.extend(volumes.places(guests.examiner, None)?);
    let question = BootQuestion {
        candidates,
        others: others.iter().filter_map(place).collect(),
        request: request.clone(),
        resolver: resolver.clone(),
        loader: guests.builders[0].shape.bootloader,
        firmware: guests.builders[0].shape.firmware,
    };
    from_guest(guests.examiner, question)
}

/// Makes the boot area follow what is installed in the guest; returns a handle to the latest
/// outcome. `examiner` is for a plan that is made at once.
fn follow_guest(
    guests: &LiveGuest<'_>,
    request: &GuestBootRequest,
    resolver: RootResolver,
    examiner: Option<Examiner>,
) -> Result<Arc<Mutex<Result<PlannedBoot>>>> {
    let incomplete = || Error::new(ErrorKind::Corrupt, "the overlay's layout has no partitions");
    let first = &guests.disks[0];
    let area = guests.builders[0].boot_area()?.ok_or_else(incomplete)?;
    let planned = area.planned();
    let reads = Arc::new(ReadSet::new(first.disk.len()));
    guests.places.attach(guests.disks, &reads);
    let [candidates, others] = guests.places.readers(guests.disks);
    let latest = not_planned();
    let planner = GuestPlanner {
        candidates,
        others,
        volumes: guests.places.volumes.live(guests.disks),
        area,
        request: request.clone(),
        resolver,
        latest: Arc::clone(&latest),
        first: examiner,
    };
    first.disk.set_planner(Box::new(planner), planned, reads);
    Ok(latest)
}

/// Plans the boot area through the disk itself; returns what boots now.
fn plan_boot_area(first: &PlannedDisk, latest: &Mutex<Result<PlannedBoot>>) -> Result<PlannedBoot> {
    first.disk.plan_gap();
    std::mem::replace(&mut *latest.lock(), Err(never_planned()))
}
