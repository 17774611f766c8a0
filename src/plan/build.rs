//! Putting the guest together.

use super::adapting::{Adaptation, adaptation};
use super::candidates::{image_readers, preview, readers};
use super::disks::{CreatedFile, Prepared, is_read_only};
use super::gap::{GuestPlanner, PartitionReader, direct_gap, not_planned, wanted_gap};
use super::guest::{BootWish, DiskContent, GuestSpec, GuestWish};
use super::guest_files::has_modules;
use super::identity::{clone_edits, rename_root, root_of};
use super::options::{Bootloader, SourceOptions};
use super::payload::{BootSummary, Payload, from_guest, from_host};
use super::roots::CmdlineRules;
use super::seed::seed_disk;
use crate::disk::Disk;
use crate::layout::{Ids, Layout, PartitionKind, SECTOR};
use crate::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// Where writes go.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum OverlayChoice {
    /// Temporary overlays in this directory, gone at the end.
    Temporary(PathBuf),
    /// This file, created if need be; for a guest with one disk.
    File(PathBuf),
    /// A file per disk in this directory, created if need be.
    Dir(PathBuf),
    /// Nowhere: the disks are read-only.
    ReadOnly,
    /// Temporary overlays in `scratch`, over persistent ones that must exist and are only read.
    Over {
        /// [`OverlayChoice::File`] or [`OverlayChoice::Dir`].
        below: Box<OverlayChoice>,
        /// Directory of the temporary overlays.
        scratch: PathBuf,
    },
}

/// A disk that is ready to be served.
#[derive(Debug)]
pub struct PlannedDisk {
    /// Name of its file in a mount: `disk.raw`, `disk-b.raw`, `cdrom-c.raw`.
    pub file: String,
    /// The guest's name for it under Xen: `xvda`.
    pub vdev: String,
    /// Its letters alone: `a`.
    pub letters: String,
    /// What it serves.
    pub disk: Arc<Disk>,
    /// Where its partitions lie; none when it is one image as it is.
    pub layout: Option<Layout>,
    /// Its identifiers, when they were made here.
    pub ids: Option<Ids>,
    /// The file in which its writes are kept, absolute.
    pub overlay: Option<PathBuf>,
    /// Whether it is a CD.
    pub cdrom: bool,
}

impl PlannedDisk {
    /// Name of a partition's file in a mount: `part1.raw` of `disk.raw`, `disk-b-part1.raw` of
    /// `disk-b.raw`.
    pub fn partition_file(&self, number: u32) -> String {
        partition_file_name(&self.file, number)
    }

    /// A reader of a partition, through the overlay.
    pub fn partition(&self, number: u32) -> Option<PartitionReader> {
        let placed = self.layout.as_ref()?.partitions.iter().find(|p| p.number == number)?;
        let (start, len) = (placed.start, placed.len);
        let disk: Weak<Disk> = Arc::downgrade(&self.disk);
        Some(PartitionReader { disk, start, len })
    }
}

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
    /// What boots; `None` without a boot loader of ours.
    pub boot: Option<BootSummary>,
    /// Where the root filesystem is: index of its disk and number of its partition.
    pub root: Option<(usize, u32)>,
    /// Edits that the guest needs, to be made once its partitions can be written.
    /// The error says why the guest cannot be adapted; it boots as it is.
    pub adaptation: Result<Option<Adaptation>>,
    /// The images, absolute.
    pub images: Vec<PathBuf>,
    /// What a user should know.
    pub notes: Vec<String>,
    /// New overlays, which go away again unless [`Plan::keep`] is called.
    created: Vec<CreatedFile>,
}

impl Plan {
    /// Plan the disks that `options` describe, with their writes going where `choice` says.
    ///
    /// # Errors
    /// A sentence for the user; nothing is left behind.
    pub fn build(options: &SourceOptions, choice: &OverlayChoice) -> Result<Self> {
        let identity = &options.identity;
        if *choice == OverlayChoice::ReadOnly && !identity.is_empty() {
            return Err(Error::new(
                ErrorKind::Usage,
                "options like --hostname edit the guest in an overlay, which a read-only disk has \
                 not; leave out one of the two",
            ));
        }
        let mut spec = GuestSpec::read(options)?;
        let first = spec.first_disk();
        settle_boot(&mut spec, first);
        let bootloader = match spec.boot {
            BootWish::Nothing => Bootloader::None,
            BootWish::Guest(_) | BootWish::Host { .. } => Bootloader::Direct,
        };
        let paths = overlay_paths(&spec, choice)?;
        let mut disks = Vec::new();
        for ((i, source), path) in spec.disks.iter().enumerate().zip(paths) {
            let first = first == Some(i);
            disks.push(Prepared::new(source, options, bootloader, first, path, choice)?);
        }
        // The firmware boots from the first disk, so it is the first in every list.
        let first = first.map(|i| &spec.disks[i]);
        disks.sort_by_key(|d| {
            let is_first = first.is_some_and(|f| std::ptr::eq(f, d.source));
            (!is_first, matches!(d.source.content, DiskContent::Cdrom(_)))
        });
        let with_loader = disks[0].shape.bootloader == Bootloader::Direct;
        let boot = if with_loader { spec.boot.clone() } else { BootWish::Nothing };

        // The gap's size needs the payload, whose command line needs the table's kind, which needs
        // the gap's size. For that only the length of what boots counts, and it is the same.
        let guess = rules(&disks, options, &spec);
        let previewed = preview(&boot, &guess, &disks)?;
        let gap = previewed.as_ref().map_or(SECTOR, wanted_gap);
        let grown = grown_partition(&disks[0], &spec);
        for (i, disk) in disks.iter_mut().enumerate() {
            disk.lay_out(if i == 0 { gap } else { SECTOR }, grown.filter(|_| i == 0))?;
        }

        let mut rules = rules(&disks, options, &spec);
        let mut uuid = None;
        if let (Some(wish), BootWish::Host { initrds, cmdline, .. }) = (identity.root_uuid, &boot) {
            // A kernel of this host has its command line for good, once it is planned.
            let (words, _) = rules.adapt(cmdline, !initrds.is_empty(), None);
            if let Some(root) = rules.root_index(&words) {
                uuid = rename_root(&mut rules, root, wish, &disks)?;
            }
        }
        let mut notes = spec.notes.clone();
        let payload = match &boot {
            BootWish::Nothing => None,
            BootWish::Host { kernel, initrds, cmdline } => {
                let payload = match previewed.filter(|_| guess.partitions == rules.partitions) {
                    Some(payload) => payload,
                    None => {
                        let readers = image_readers(&disks[0]);
                        from_host(kernel, initrds, cmdline, &rules, readers)
                            .map_err(|e| name_the_way_out(e, options))?
                    }
                };
                notes.extend(missing_modules(&payload, &disks, options));
                Some(payload)
            }
            // Where nothing was written yet, what the images show is what the disk shows.
            BootWish::Guest(_) => previewed.filter(|_| {
                guess.partitions == rules.partitions && !disks.iter().any(Prepared::has_overlay)
            }),
        };
        let mut summary = None;
        let mut first_gap = None;
        if let (Some(payload), Some(table), Some(layout)) =
            (payload, disks[0].table_bytes()?, &disks[0].layout)
        {
            summary = Some(payload.summary.clone());
            first_gap = Some(direct_gap(&table, &Ok(payload), layout.gap()));
        }

        let mut created = Vec::new();
        let mut planned = Vec::new();
        for (i, disk) in disks.iter_mut().enumerate() {
            let built = disk.build(first_gap.take(), choice, &mut created)?;
            let put_together = disk.layout.is_some();
            let cdrom = matches!(disk.source.content, DiskContent::Cdrom(_));
            planned.push(PlannedDisk {
                file: disk_file_name(i, &disk.source.letters, cdrom),
                vdev: disk.source.vdev.clone(),
                letters: disk.source.letters.clone(),
                overlay: disk.overlay_path.as_ref().and_then(|p| p.canonicalize().ok()),
                disk: Arc::new(built),
                layout: disk.layout.clone(),
                ids: put_together.then_some(disk.ids),
                cdrom,
            });
        }
        if let (Some(wish), None) = (identity.root_uuid, &uuid) {
            let words = summary.as_ref().map(|s| s.cmdline.clone());
            let words = words.or_else(|| cmdline_now(&planned, &disks, &boot, &rules));
            let root = root_of(&rules, words.as_deref(), &planned)?;
            uuid = rename_root(&mut rules, root, wish, &disks)?;
            if matches!(boot, BootWish::Guest(_)) {
                // Its command line has another root now.
                summary = None;
            }
        }
        if let BootWish::Guest(wish) = &boot {
            let latest = follow_guest(&planned, &disks, wish, rules.clone())?;
            match summary.is_none().then(|| plan_gap(&planned[0], &latest)) {
                None => {}
                Some(Ok(boots)) => summary = Some(boots),
                // What somebody has done to a guest in its overlay, they must be able to mend.
                Some(Err(e)) if disks[0].has_overlay() => {
                    notes.push(format!("nothing boots from this disk as it is now: {e}"));
                }
                Some(Err(e)) => return Err(e),
            }
        }
        let adaptation = match &summary {
            _ if !identity.is_empty() => {
                let words = summary.as_ref().map(|s| s.cmdline.as_str());
                Ok(clone_edits((&planned, &disks), &rules, words, uuid.as_ref(), options)?)
            }
            Some(summary) if *choice != OverlayChoice::ReadOnly => {
                adaptation(&planned, &rules, &summary.cmdline, &mut notes)
            }
            _ => Ok(None),
        };
        let root = root_place(&planned, &rules, summary.as_ref());
        if let Some(wanted) = &options.cloud_init {
            planned.push(seed_disk(wanted, identity.hostname.as_ref(), &mut notes)?);
        }
        let images = disks.iter().flat_map(|d| super::disks::marks(d.source));
        let images = images.map(|(_, image)| image.image.path().to_path_buf()).collect();
        Ok(Self {
            name: spec.name,
            memory_mib: spec.memory_mib,
            macs: spec.macs,
            disks: planned,
            boot: summary,
            root,
            adaptation,
            images,
            notes,
            created,
        })
    }

    /// The mount has succeeded: new overlays stay.
    pub fn keep(&mut self) {
        self.created.drain(..).for_each(CreatedFile::keep);
    }
}

/// Where the root filesystem is: the command line says so, else the config's hint, else it is the
/// first partition with a filesystem.
fn root_place(
    planned: &[PlannedDisk],
    rules: &CmdlineRules,
    boot: Option<&BootSummary>,
) -> Option<(usize, u32)> {
    let hints = [boot.map(|b| b.cmdline.as_str()), rules.root_hint.as_deref()];
    let named = hints.into_iter().flatten().find_map(|words| rules.root_of(words));
    let first = || rules.partitions.iter().find(|p| p.kind == PartitionKind::Linux);
    let root = named.or_else(first)?;
    let disk = planned.iter().position(|d| !d.cdrom && d.letters == root.disk)?;
    Some((disk, root.number))
}

/// A first disk that has its own partition table boots by itself.
fn settle_boot(spec: &mut GuestSpec, first: Option<usize>) {
    let whole = first.is_some_and(|i| matches!(spec.disks[i].content, DiskContent::Whole { .. }));
    if !whole {
        return;
    }
    if let BootWish::Host { kernel, .. } = &spec.boot {
        spec.notes.push(format!(
            "the first disk has a partition table and boots by its own boot loader; the kernel {} \
             is not used (QEMU's -kernel would take it)",
            kernel.display()
        ));
    }
    spec.boot = BootWish::Nothing;
}

fn rules(disks: &[Prepared], options: &SourceOptions, spec: &GuestSpec) -> CmdlineRules {
    CmdlineRules {
        partitions: disks.iter().flat_map(Prepared::names).collect(),
        append: options.append.clone(),
        replace: options.cmdline.clone(),
        selection: options.adapt.clone(),
        same_names: options.config.is_some() || options.images.len() > 1,
        complete: disks.iter().all(|d| matches!(d.source.content, DiskContent::Partitions(_))),
        macs: spec.macs.clone(),
        root_hint: spec.root_hint.clone(),
    }
}

/// The partition that `--root-size` is about: the config's root, else the first listed.
fn grown_partition(disk: &Prepared, spec: &GuestSpec) -> Option<u32> {
    let hinted = spec.root_hint.as_deref().and_then(|hint| {
        let rules = CmdlineRules { partitions: disk.names(), ..CmdlineRules::default() };
        rules.root_of(hint).filter(|p| p.kind == PartitionKind::Linux).map(|p| p.number)
    });
    hinted.or_else(|| disk.first_listed().map(|p| p.number))
}

/// The command line that the guest's own boot configuration has now.
fn cmdline_now(
    planned: &[PlannedDisk],
    prepared: &[Prepared],
    boot: &BootWish,
    rules: &CmdlineRules,
) -> Option<String> {
    let BootWish::Guest(wish) = boot else { return None };
    let [candidates, others] = readers(planned, prepared);
    from_guest(&candidates, &others, wish, rules).ok().map(|payload| payload.cmdline)
}

/// Have the gap follow what the guest has installed; returns where the latest outcome is kept.
fn follow_guest(
    planned: &[PlannedDisk],
    prepared: &[Prepared],
    wish: &GuestWish,
    rules: CmdlineRules,
) -> Result<Arc<Mutex<Result<BootSummary>>>> {
    let incomplete = || Error::new(ErrorKind::Corrupt, "the overlay's layout has no partitions");
    let first = &planned[0];
    let layout = first.layout.as_ref().ok_or_else(incomplete)?;
    let table = prepared[0].table_bytes()?.ok_or_else(incomplete)?;
    let [candidates, others] = readers(planned, prepared);
    let latest = not_planned();
    let planner = GuestPlanner {
        candidates,
        others,
        table,
        gap_end: layout.gap(),
        wish: wish.clone(),
        rules,
        latest: Arc::clone(&latest),
    };
    first.disk.set_planner(Box::new(planner), layout.gap());
    Ok(latest)
}

/// Plan the gap through the disk itself; returns what boots now.
fn plan_gap(first: &PlannedDisk, latest: &Mutex<Result<BootSummary>>) -> Result<BootSummary> {
    first.disk.plan_gap();
    std::mem::replace(&mut *latest.lock(), Ok(BootSummary::default()))
}

/// A dom0 kernel that cannot boot here is not the end: the guest may have one of its own.
fn name_the_way_out(e: Error, options: &SourceOptions) -> Error {
    if options.config.is_none() || options.kernel.is_some() {
        return e;
    }
    let what = format!(
        "the domU config's kernel: {e}; --guest-kernel boots the one that the guest has installed"
    );
    Error::new(e.kind(), what)
}

/// A note when the guest has no modules for a kernel that is not its own.
fn missing_modules(
    payload: &Payload,
    disks: &[Prepared],
    options: &SourceOptions,
) -> Option<String> {
    let version = payload.summary.kernel_version.as_deref()?;
    let roots = disks[0].partitions().iter().filter(|p| !p.image.is_swap());
    let found: Vec<bool> =
        roots.filter_map(|p| has_modules(Arc::clone(&p.image.image), version)).collect();
    if found.is_empty() || found.contains(&true) {
        return None;
    }
    let way_out = if options.config.is_some() {
        "; --guest-kernel boots the one that the guest has installed"
    } else {
        ""
    };
    Some(format!("the guest has no modules for this kernel (/lib/modules/{version}){way_out}"))
}

/// Name in a mount of the disk number `index` (from 0) of a guest, with the disk's letters.
pub fn disk_file_name(index: usize, letters: &str, cdrom: bool) -> String {
    match (index, cdrom) {
        (0, _) => "disk.raw".into(),
        (_, true) => format!("cdrom-{letters}.raw"),
        (_, false) => format!("disk-{letters}.raw"),
    }
}

/// Name in a mount of a partition of the disk whose file is `disk`.
pub fn partition_file_name(disk: &str, number: u32) -> String {
    let stem = disk.strip_suffix(".raw").unwrap_or(disk);
    let prefix = if stem == "disk" { String::new() } else { format!("{stem}-") };
    format!("{prefix}part{number}.raw")
}

/// The overlay file of each disk, where writes are kept.
fn overlay_paths(spec: &GuestSpec, choice: &OverlayChoice) -> Result<Vec<Option<PathBuf>>> {
    let writable = spec.disks.iter().filter(|d| !is_read_only(d)).count();
    let dir = match choice {
        OverlayChoice::ReadOnly | OverlayChoice::Temporary(_) => {
            return Ok(vec![None; spec.disks.len()]);
        }
        OverlayChoice::File(_) if writable > 1 => {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "the guest has {writable} disks, and each needs an overlay of its own; use \
                     --overlay-dir in place of --overlay"
                ),
            ));
        }
        OverlayChoice::Over { below, .. } => {
            if let OverlayChoice::Dir(dir) = &**below {
                std::fs::metadata(dir).map_err(|e| {
                    Error::io(format!("cannot open the directory {}", dir.display()), e)
                })?;
            }
            let paths = overlay_paths(spec, below)?;
            for path in paths.iter().flatten() {
                path.symlink_metadata().map_err(|e| {
                    Error::io(format!("cannot open the overlay {}", path.display()), e)
                })?;
            }
            return Ok(paths);
        }
        OverlayChoice::File(path) => path,
        OverlayChoice::Dir(dir) => {
            std::fs::create_dir_all(dir).map_err(|e| {
                Error::io(format!("cannot make the directory {}", dir.display()), e)
            })?;
            dir
        }
    };
    let path_of = |letters: &str| match choice {
        OverlayChoice::Dir(_) => dir.join(format!("{}-{letters}.qcow2", safe(&spec.name))),
        _ => Path::to_path_buf(dir),
    };
    let path_for = |d: &super::guest::DiskSource| (!is_read_only(d)).then(|| path_of(&d.letters));
    Ok(spec.disks.iter().map(path_for).collect())
}

/// A guest's name as part of a file name.
fn safe(name: &str) -> String {
    let keep = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let safe: String = name.chars().map(|c| if keep(c) { c } else { '_' }).collect();
    safe.trim_start_matches('.').to_owned()
}
