//! Stage 2: decide where everything lies on the disks.

use super::candidates::{image_readers, other_image_readers};
use super::disk_builder::DiskBuilder;
use super::options::SourceOptions;
use super::payload::{from_guest, from_host};
use super::root_resolver::RootResolver;
use super::survey::Survey;
use super::types::{BootRequest, GuestSpec, PartitionNames, PlannedBoot};
use crate::Result;

/// What boots as far as the images alone say, and the names with which that was planned.
pub(super) struct Preview {
    pub(super) boot: Option<PlannedBoot>,
    pub(super) names: Vec<PartitionNames>,
}

/// Lay out the disks of `survey`.
///
/// What a loader reserves depends on what boots, whose command line has partition UUIDs, which
/// depend on the kind of table, which depends on what the loader reserves. So a preview is planned
/// with the expected kind of table; only the lengths of its files count here.
///
/// # Errors
/// Those of reading the guest and of [`DiskBuilder::lay_out`].
pub(super) fn lay_out(survey: &mut Survey, options: &SourceOptions) -> Result<Preview> {
    let resolver = survey.resolver(options);
    let boot = preview(&survey.guest.boot, &resolver, &survey.disks)?;
    let payload = boot.as_ref().map(|boot| &boot.payload);
    let grown = grown_partition(&survey.disks[0], &survey.guest);
    for (i, disk) in survey.disks.iter_mut().enumerate() {
        disk.lay_out(payload.filter(|_| i == 0), grown.filter(|_| i == 0))?;
    }
    Ok(Preview { boot, names: resolver.partitions })
}

/// What boots, read from the images themselves; `None` without a loader, or with an overlay that
/// has the layout.
fn preview(
    boot: &BootRequest,
    resolver: &RootResolver,
    disks: &[DiskBuilder],
) -> Result<Option<PlannedBoot>> {
    let disk = &disks[0];
    let loader = disk.shape.bootloader;
    if disk.layout.is_some() {
        return Ok(None);
    }
    let (readers, others) = (image_readers(disk), other_image_readers(disks));
    match boot {
        BootRequest::Nothing => Ok(None),
        BootRequest::Host { kernel, initrds, cmdline } => {
            // The next stage opens these files again and reports what is wrong with them.
            Ok(from_host(kernel, initrds, cmdline, resolver, loader, readers).ok())
        }
        BootRequest::Guest(request) => {
            from_guest(&readers, &others, request, resolver, loader).map(Some)
        }
    }
}

/// The partition that `--root-size` is about: the config's root, else the first listed.
fn grown_partition(disk: &DiskBuilder, spec: &GuestSpec) -> Option<u32> {
    let hinted = spec.root_hint.as_deref().and_then(|hint| {
        let resolver = RootResolver { partitions: disk.names(), ..RootResolver::default() };
        resolver.root_of(hint).filter(|p| p.kind.may_hold_root()).map(|p| p.number)
    });
    hinted.or_else(|| disk.first_listed().map(|p| p.number))
}
