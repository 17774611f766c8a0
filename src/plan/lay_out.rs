//! Stage 2: decide the layout of the disks.

use super::disk_builder::DiskBuilder;
use super::examine::BootQuestion;
use super::options::SourceOptions;
use super::payload::{from_guest, from_host};
use super::root_resolver::RootResolver;
use super::survey::Survey;
use super::types::{BootRequest, DiskShape, GuestSpec, PartitionNames, PlannedBoot};
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
    let boot = preview(survey, &resolver)?;
    let payload = boot.as_ref().map(|boot| &boot.payload);
    let grown = grown_partition(&survey.disks[0], &survey.guest);
    for (i, disk) in survey.disks.iter_mut().enumerate() {
        disk.lay_out(payload.filter(|_| i == 0), grown.filter(|_| i == 0))?;
    }
    Ok(Preview { boot, names: resolver.partitions })
}

/// What boots, read directly from the images; `None` without a loader, or if an overlay already has
/// the layout.
fn preview(survey: &Survey, resolver: &RootResolver) -> Result<Option<PlannedBoot>> {
    let Survey { guest, disks, examiner, places } = survey;
    let disk = &disks[0];
    let DiskShape { bootloader: loader, firmware, .. } = disk.shape;
    if disk.layout.is_some() {
        return Ok(None);
    }
    match &guest.boot {
        BootRequest::Nothing => Ok(None),
        BootRequest::Host { kernel, initrds, cmdline } => {
            // The next stage opens these files again and reports any errors.
            let files = (kernel.as_path(), initrds.as_slice());
            let loader = (loader, firmware);
            Ok(from_host(examiner, files, cmdline, resolver, loader, &places.candidates).ok())
        }
        BootRequest::Guest(request) => {
            let question = BootQuestion {
                candidates: places.candidates.clone(),
                others: places.others.clone(),
                request: request.clone(),
                resolver: resolver.clone(),
                loader,
                firmware,
            };
            from_guest(examiner, question).map(Some)
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
