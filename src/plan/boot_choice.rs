//! Stage 3: choose what boots, as far as the images determine it.

use super::candidates::Places;
use super::clone::rename_root;
use super::disk_builder::DiskBuilder;
use super::examine::Examiner;
use super::lay_out::Preview;
use super::options::SourceOptions;
use super::payload::from_host;
use super::root_resolver::RootResolver;
use super::survey::Survey;
use super::types::{BootRequest, PlannedBoot};
use crate::identity::UuidChange;
use crate::{Error, Result};

/// What boots, and the names of the guest's partitions.
pub(super) struct BootChoice {
    /// `None` if nothing boots, or if it can only be determined from the disk itself, including its
    /// overlay.
    pub(super) boot: Option<PlannedBoot>,
    pub(super) resolver: RootResolver,
    /// The root filesystem's new UUID, if one is requested and already known.
    pub(super) uuid: Option<UuidChange>,
}

/// Chooses what boots from the disks of `survey`, which are laid out.
///
/// # Errors
/// Errors from a kernel of this host; `Unsupported` for a UUID that cannot be changed.
pub(super) fn choose_boot(
    survey: &mut Survey,
    preview: Preview,
    options: &SourceOptions,
) -> Result<BootChoice> {
    let mut resolver = survey.resolver(options);
    let Survey { guest, disks, examiner, places } = survey;
    let disks = disks.as_slice();
    let mut uuid = None;
    if let (Some(wish), BootRequest::Host { initrds, cmdline, .. }) =
        (options.identity.root_uuid, &guest.boot)
    {
        // The command line for a kernel of this host is final once it is planned.
        let (words, _) = resolver.adapt(cmdline, !initrds.is_empty(), None);
        if let Some(root) = resolver.root_index(&words) {
            uuid = rename_root(&mut resolver, root, wish, disks, &places.volumes)?;
        }
    }
    // A preview with other partition names has a different command line.
    let previewed = preview.boot.filter(|_| preview.names == resolver.partitions);
    let boot = match &guest.boot {
        BootRequest::Nothing => None,
        BootRequest::Host { kernel, initrds, cmdline } => {
            let boot = match previewed {
                Some(boot) => boot,
                None => {
                    let candidates = &places.candidates;
                    let shape = disks[0].shape;
                    let loader = (shape.bootloader, shape.firmware);
                    let files = (kernel.as_path(), initrds.as_slice());
                    from_host(examiner, files, cmdline, &resolver, loader, candidates)
                        .map_err(|e| suggest_guest_kernel(e, options))?
                }
            };
            guest.notes.extend(missing_modules(&boot, examiner, places, options));
            Some(boot)
        }
        // Before the first write, the disk has the same content as the images.
        BootRequest::Guest(_) => previewed.filter(|_| !disks.iter().any(DiskBuilder::has_overlay)),
    };
    Ok(BootChoice { boot: boot.filter(|_| disks[0].layout.is_some()), resolver, uuid })
}

/// If a dom0 kernel cannot boot here, suggest the guest's own kernel, if it has one.
fn suggest_guest_kernel(e: Error, options: &SourceOptions) -> Error {
    if options.config.is_none() || options.kernel.is_some() {
        return e;
    }
    let what = format!(
        "the domU config's kernel: {e}; --guest-kernel boots the one that the guest has installed"
    );
    Error::new(e.kind(), what)
}

/// A note if the guest has no modules for a kernel that is not its own.
fn missing_modules(
    boot: &PlannedBoot,
    examiner: &Examiner,
    places: &Places,
    options: &SourceOptions,
) -> Option<String> {
    let version = boot.summary.kernel_version.as_deref()?;
    let roots = places.candidates.iter();
    let found: Vec<bool> =
        roots.filter_map(|(_, root)| examiner.has_modules(*root, version)).collect();
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
