//! Stage 1: read the config, open the images and the overlays, and determine how the guest will
//! boot.

use super::candidates::Places;
use super::disk_builder::DiskBuilder;
use super::disk_source::is_read_only;
use super::examine::Examiner;
use super::options::SourceOptions;
use super::root_resolver::RootResolver;
use super::types::{BootRequest, DiskContent, DiskRole, DiskSource, GuestSpec, OverlayChoice};
use crate::loader::{Chooses, LoaderKind};
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
        let first = guest.first_disk();
        settle_boot(&mut guest, first);
        let loader = loader_for(&guest.boot, options)?;
        let paths = overlay_paths(&guest, choice)?;
        let mut disks = Vec::new();
        let sources = std::mem::take(&mut guest.disks);
        for ((i, source), path) in sources.into_iter().enumerate().zip(paths) {
            let role = if first == Some(i) { DiskRole::First } else { DiskRole::Further };
            disks.push(DiskBuilder::new(source, options, loader, role, path, choice)?);
        }
        disks.sort_by_key(|d| (d.role != DiskRole::First, d.is_cdrom()));
        // The overlay may have been made without a loader.
        if disks[0].shape.bootloader.limits().is_none() {
            guest.boot = BootRequest::Nothing;
        }
        let examiner = Examiner::new();
        let places = Places::new(&disks, &examiner)?;
        Ok(Self { guest, disks, examiner, places })
    }

    /// The resolver for all partitions, with the names known so far.
    pub(super) fn resolver(&self, options: &SourceOptions) -> RootResolver {
        let in_partitions =
            |d: &DiskBuilder| matches!(d.source.content, DiskContent::Partitions(_));
        RootResolver {
            partitions: self.disks.iter().flat_map(DiskBuilder::names).collect(),
            append: options.append.clone(),
            replace: options.cmdline.clone(),
            selection: options.adapt.clone(),
            same_names: options.config.is_some() || options.images.len() > 1,
            complete: self.disks.iter().all(in_partitions),
            macs: self.guest.macs.clone(),
            root_hint: self.guest.root_hint.clone(),
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

/// A first disk with its own partition table boots with its own boot loader.
fn settle_boot(spec: &mut GuestSpec, first: Option<usize>) {
    let whole = first.is_some_and(|i| matches!(spec.disks[i].content, DiskContent::Whole { .. }));
    if !whole {
        return;
    }
    if let BootRequest::Host { kernel, .. } = &spec.boot {
        spec.notes.push(format!(
            "the first disk has a partition table and boots by its own boot loader; the kernel {} \
             is not used (QEMU's -kernel can load it)",
            kernel.display()
        ));
    }
    spec.boot = BootRequest::Nothing;
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

/// A guest's name in a form that is valid in a file name.
fn safe(name: &str) -> String {
    let keep = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let safe: String = name.chars().map(|c| if keep(c) { c } else { '_' }).collect();
    safe.trim_start_matches('.').to_owned()
}
