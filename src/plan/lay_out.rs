//! Stage 2: decide the layout of the disks.

use super::candidates::{image_readers, other_image_readers};
use super::disk_builder::DiskBuilder;
use super::options::SourceOptions;
use super::payload::{from_guest, from_host};
use super::root_resolver::RootResolver;
use super::survey::Survey;
use super::types::{BootRequest, GuestSpec, PartitionNames, PlannedBoot};
use crate::Result;

/// What boots according to the images alone, and the partition names used to plan it.
pub(super) struct Preview {
    pub(super) boot: Option<PlannedBoot>,
    pub(super) names: Vec<PartitionNames>,
}

/// Lays out the disks of `survey`.
///
/// The space that a loader reserves depends on what boots. The command line contains partition
/// UUIDs, which depend on the table type, which in turn depends on what the loader reserves. So a
/// preview is planned with the expected table type; only the lengths of its files matter here.
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

/// What boots, read directly from the images; `None` without a loader, or if an overlay already has
/// the layout.
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
            // The next stage opens these files again and reports any errors.
            Ok(from_host(kernel, initrds, cmdline, resolver, loader, readers).ok())
        }
        BootRequest::Guest(request) => {
            from_guest(&readers, &others, request, resolver, loader).map(Some)
        }
    }
}

/// The partition that `--root-size` applies to: the config's root, else the first listed.
fn grown_partition(disk: &DiskBuilder, spec: &GuestSpec) -> Option<u32> {
    let hinted = spec.root_hint.as_deref().and_then(|hint| {
        let resolver = RootResolver { partitions: disk.names(), ..RootResolver::default() };
        resolver.root_of(hint).filter(|p| p.kind.may_hold_root()).map(|p| p.number)
    });
    hinted.or_else(|| disk.first_listed().map(|p| p.number))
}
