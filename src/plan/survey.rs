//! Stage 1: read the config, open the images and the overlays, and determine how the guest will
//! boot.

use super::candidates::Places;
use super::disk_builder::DiskBuilder;
use super::disk_source::is_read_only;
use super::examine::Examiner;
use super::options::SourceOptions;
use super::raid::check_raid;
use super::root_resolver::{Finder, RootResolver};
use super::types::{
    BootRequest, DiskContent, DiskRole, DiskSource, GuestSpec, OverlayChoice, WholeDisk,
};
use super::whole_disk::{refuse_layout_options, whole_disk};
use crate::fs::boot_code::BootCode;
use crate::loader::{Chooses, FirmwareSet, LoaderKind};
use crate::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// What is known before the layout.
pub(super) struct Survey {
    /// The guest; its disks were moved to `disks`.
    pub(super) guest: GuestSpec,
    /// The disk that the firmware boots from comes first, CDs come last.
    pub(super) disks: Vec<DiskBuilder>,
    /// Examines the guest for this plan.
    pub(super) examiner: Examiner,
    /// The partitions that it examines.
    pub(super) places: Places,
}

impl Survey {
    /// # Errors
    /// Those of the config, the images and the overlays, each naming its file.
    pub(super) fn take(options: &SourceOptions, choice: &OverlayChoice) -> Result<Self> {
        if *choice == OverlayChoice::ReadOnly && !options.identity.is_empty() {
            return Err(Error::new(
                ErrorKind::Usage,
                "--hostname and the like need a writable overlay; drop --read-only",
            ));
        }
        let mut guest = GuestSpec::read(options)?;
        check_raid(&guest.disks, &mut guest.notes)?;
        let first = guest.first_disk();
        let (loader, note) = match first.and_then(|i| whole_disk(&guest.disks[i])) {
            None => (loader_for(&guest.boot, options)?, None),
            Some(whole) => {
                refuse_layout_options(options)?;
                loader_of_whole(whole, &guest.boot, options)?
            }
        };
        let paths = overlay_paths(&guest, choice)?;
        let mut disks = Vec::new();
        let sources = std::mem::take(&mut guest.disks);
        for ((i, source), path) in sources.into_iter().enumerate().zip(paths) {
            let role = if first == Some(i) { DiskRole::First } else { DiskRole::Further };
            disks.push(DiskBuilder::new(source, options, loader, role, path, choice)?);
        }
        disks.sort_by_key(|d| (d.role != DiskRole::First, d.is_cdrom()));
        // The overlay may have been made without a loader.
        let has_loader = disks[0].shape.bootloader.limits().is_some();
        if !has_loader {
            guest.boot = BootRequest::Nothing;
        }
        guest.notes.extend(note.filter(|note| note.applies(has_loader)).map(|note| note.text));
        let examiner = Examiner::new();
        let places = Places::new(&disks, &examiner, options.root_partition)?;
        check_root_partition(&disks[0], options)?;
        if matches!(guest.boot, BootRequest::Guest(_)) && places.candidates.is_empty() {
            whole_disk(&disks[0].source).map_or(Ok(()), refuse_unreadable)?;
        }
        Ok(Self { guest, disks, examiner, places })
    }

    /// The resolver for all partitions, with the names known so far.
    pub(super) fn resolver(&self, options: &SourceOptions) -> RootResolver {
        let is_known = |d: &DiskBuilder| match &d.source.content {
            DiskContent::Partitions(_) => true,
            DiskContent::Whole(whole) => whole.table.is_ok(),
            DiskContent::Cdrom(_) => false,
        };
        let is_whole = whole_disk(&self.disks[0].source).is_some();
        let root = options
            .root_partition
            .and_then(|number| self.disks[0].names().iter().position(|p| p.number == number));
        let volumes = &self.places.volumes;
        let partitions = self.disks.iter().flat_map(DiskBuilder::names);
        RootResolver {
            partitions: partitions.chain(volumes.names()).collect(),
            root_partition: root,
            append: options.append.clone(),
            replace: options.cmdline.clone(),
            selection: options.adapt.clone(),
            same_names: options.config.is_some() || options.images.len() > 1 || is_whole,
            complete: self.disks.iter().all(is_known) && volumes.problems.is_empty(),
            macs: self.guest.macs.clone(),
            root_hint: self.guest.root_hint.clone(),
            menu: None,
            finder: Finder::default(),
        }
    }
}

/// The loader of the first disk; `None` for the default, or for that of its overlay.
///
/// # Errors
/// [`ErrorKind::Usage`] for a loader that cannot boot what is requested.
fn loader_for(boot: &BootRequest, options: &SourceOptions) -> Result<Option<LoaderKind>> {
    let wanted = options.bootloader;
    Ok(match boot {
        BootRequest::Nothing => {
            Some(wanted.filter(|l| l.limits().is_none()).unwrap_or_else(LoaderKind::none))
        }
        BootRequest::Guest(_) => wanted.or(options.preferred_loader),
        BootRequest::Host { .. } if wanted.is_some_and(|l| l.chooses() == Chooses::GuestMenu) => {
            let what = "--bootloader grub boots the guest's own kernels, not a kernel of this host; \
                        use --bootloader direct, or --guest-kernel";
            return Err(Error::new(ErrorKind::Usage, what));
        }
        // An overlay's loader may be one that boots only the guest's kernels.
        BootRequest::Host { .. } => wanted.or(Some(LoaderKind::default())),
    })
}

/// What the user should know of the loader of a whole disk.
struct LoaderNote {
    text: String,
    /// Whether it is about a loader of ours.
    ours: bool,
}

impl LoaderNote {
    /// Whether it is true for a disk that has a loader of ours, or has none: an overlay may have
    /// been made without.
    fn applies(&self, has_loader: bool) -> bool {
        self.ours == has_loader
    }
}

/// The loader of a first disk that is a whole disk, and what the user should know about it. Boot
/// code that boots by itself is used unless something is requested that only a loader of ours does.
///
/// # Errors
/// As [`loader_for`]; [`ErrorKind::Unsupported`] for a disk that no loader of ours can start.
fn loader_of_whole(
    whole: &WholeDisk,
    boot: &BootRequest,
    options: &SourceOptions,
) -> Result<(Option<LoaderKind>, Option<LoaderNote>)> {
    let none = || Some(options.bootloader.unwrap_or_else(LoaderKind::none));
    let path = whole.image.image.path().display();
    if options.firmware.is_some_and(FirmwareSet::has_uefi) {
        let is_host = matches!(boot, BootRequest::Host { .. });
        let wanted = options.bootloader.map_or(needs_ours(options), |l| l.limits().is_some());
        if is_host || wanted {
            let what = format!(
                "{path} has a partition table of its own and no EFI system partition of \
                 synthdisk's, so only the image's own loader can boot under UEFI; use --firmware \
                 bios, or drop --bootloader, --kernel and the like"
            );
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        return Ok((Some(LoaderKind::none()), None));
    }
    let asked = options.bootloader.is_some() || options.kernel.is_some() || options.entry.is_some();
    match (&whole.table, boot, &whole.boot_code) {
        (_, BootRequest::Nothing, _) => Ok((none(), None)),
        (Err(e), ..) if asked => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{path} cannot get a boot loader of synthdisk: {e}; --bootloader none shows it as \
                     it is"
            ),
        )),
        (Err(e), ..) => {
            let note = LoaderNote { text: format!("{path} is not looked into: {e}"), ours: false };
            Ok((Some(LoaderKind::none()), Some(note)))
        }
        (Ok(_), BootRequest::Guest(_), BootCode::Present(_) | BootCode::Unknown(_))
            if !needs_ours(options) =>
        {
            Ok((Some(LoaderKind::none()), None))
        }
        (Ok(_), BootRequest::Guest(_), BootCode::Absent(why)) => {
            let loader = loader_for(boot, options)?;
            let text = format!("{path} gets a boot loader of synthdisk: {why}");
            let note = LoaderNote { text, ours: true };
            Ok((loader, Some(note).filter(|_| options.bootloader.is_none())))
        }
        (Ok(_), ..) => Ok((loader_for(boot, options)?, None)),
    }
}

/// Whether the options request something that boot code in an image does not do.
fn needs_ours(options: &SourceOptions) -> bool {
    options.bootloader.is_some()
        || options.guest_kernel
        || options.entry.is_some()
        || options.append.is_some()
        || options.cmdline.is_some()
}

/// The overlay file of each disk, which stores its writes.
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
                Error::io(format!("cannot create the directory {}", dir.display()), e)
            })?;
            dir
        }
    };
    let path_of = |letters: &str| match choice {
        OverlayChoice::Dir(_) => dir.join(format!("{}-{letters}.qcow2", safe(&spec.name))),
        _ => Path::to_path_buf(dir),
    };
    let path_for = |d: &DiskSource| (!is_read_only(d)).then(|| path_of(&d.letters));
    Ok(spec.disks.iter().map(path_for).collect())
}

/// The error for a whole disk without any filesystem that can be looked into.
fn refuse_unreadable(whole: &WholeDisk) -> Result<()> {
    let list = whole.partitions().iter();
    let list = list.map(|p| format!("{} ({})", p.number, p.image.content.short_name()));
    let what = format!(
        "{} has no partition with a filesystem that can be read: {}; give a kernel with --kernel, or \
         use --bootloader none",
        whole.image.image.path().display(),
        list.collect::<Vec<_>>().join(", ")
    );
    Err(Error::new(ErrorKind::Unsupported, what))
}

/// Refuses `--root-partition` for a number that the first disk does not have.
fn check_root_partition(disk: &DiskBuilder, options: &SourceOptions) -> Result<()> {
    let Some(number) = options.root_partition else { return Ok(()) };
    let parts = || disk.partitions().iter().filter(|p| p.kind.may_hold_root());
    if parts().any(|p| p.number == number) {
        return Ok(());
    }
    let list = parts().map(|p| format!("{} ({})", p.number, p.image.content.short_name()));
    let list = list.collect::<Vec<_>>().join(", ");
    let what = format!(
        "--root-partition {number}: the first disk has no such partition for a filesystem; it has: \
         {list}"
    );
    Err(Error::new(ErrorKind::Usage, what))
}

/// A guest's name in a form that is valid in a file name.
fn safe(name: &str) -> String {
    let keep = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let safe: String = name.chars().map(|c| if keep(c) { c } else { '_' }).collect();
    safe.trim_start_matches('.').to_owned()
}
