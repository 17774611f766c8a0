//! Writing disks that this process plans itself.

use super::args::ResultArgs;
use crate::daemon::{EditReport, Partly, adapt};
use crate::disk::temporary_dir;
use crate::export::ExportSet;
use crate::finalize::{
    Backing, Contents, DiskRange, Input, Output, OutputDisk, OutputFormat, Pending, Reflink,
    Request, SourceAccess, check_room, choose, no_partition, shares_blocks, write_converted,
    write_delta, write_raw,
};
use crate::fuse::with_private_view;
use crate::loader::{Chooses, LoaderKind};
use crate::plan::{OverlayChoice, Plan, PlannedDisk, SourceOptions};
use crate::text::in_a_line;
use crate::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Write the disks that `options` describe, seen through `overlay`; with `backing`, only what
/// differs from it.
///
/// # Errors
/// Errors from planning, adapting and writing.
pub(super) fn write_planned(
    mut options: SourceOptions,
    overlay: Option<OverlayChoice>,
    backing: Option<&Path>,
    result: &ResultArgs,
    request: &Request<'_>,
) -> Result<Vec<Pending>> {
    let scratch = scratch_dir(&result.output, result.reflink);
    let choice = match overlay {
        Some(below) => OverlayChoice::Over { below: Box::new(below), scratch },
        None => OverlayChoice::Temporary(scratch),
    };
    let no_grub = prefer_grub(&mut options);
    let mut plan = Plan::build(&options, &choice)?;
    let backing = backing.map(Backing::open).transpose()?;
    // With a golden image there is one overlay, and therefore one disk that the delta can be for.
    let over = backing.as_ref().and_then(|_| plan.disks.iter().position(|d| d.overlay.is_some()));
    if let Some(backing) = &backing {
        let nothing = "no disk of this guest can be written to, so it has no delta";
        let over = over.ok_or_else(|| Error::new(ErrorKind::Invalid, nothing))?;
        backing.check_same_base(&plan.disks[over].disk.table())?;
    }
    // The boot plan is only needed by a mount.
    plan.boot = None;
    let must_adapt = !options.identity.is_empty();
    let mut sources = plan.images.clone();
    sources.extend(plan.disks.iter().filter_map(|d| d.overlay.clone()));
    sources.extend(options.kernel.into_iter().chain(options.initrds));
    let access = SourceAccess::of(&sources);
    sources.extend(backing.iter().map(|b| b.path().to_path_buf()));
    sources.extend(options.config);
    let chosen = plan.disks.iter().enumerate().filter(|(i, _)| over.is_none_or(|over| over == *i));
    let disks: Vec<_> = chosen.map(|(_, planned)| disk_of(planned)).collect();
    let mut outputs = choose(&disks, &result.wanted(), &sources, &access, request.force)?;
    if let Some(over) = over {
        outputs.iter_mut().for_each(|output| output.index = over);
    }
    let range_of = |output: &Output| {
        let planned = &plan.disks[output.index];
        match result.partition {
            None => Ok(DiskRange::whole(Arc::clone(&planned.disk))),
            Some(number) => partition(planned, number),
        }
    };
    let ranges = outputs.iter().map(range_of).collect::<Result<Vec<_>>>()?;
    // The size of a delta is known only when it is written.
    if backing.is_none() && result.takes_all(outputs[0].target.dir()) && !request.force {
        let all = ranges.iter().map(|range| range as &dyn Contents);
        check_room(all.zip(outputs.iter().map(|output| &output.target)))?;
    }
    if !request.quiet {
        plan.notes.iter().for_each(|note| eprintln!("note:    {}", in_a_line(note)));
    }
    let set = ExportSet::of_plan(&plan);
    let edits = match adapt(&plan, &set, Partly::Fails, None) {
        // Printed warnings may go unread when the file is written unattended, so this is an error.
        Err(e) if must_adapt || plan.adaptation.is_ok() => {
            let what = format!(
                "the guest is not adapted to KVM: {e}; --adapt none writes the disk without"
            );
            return Err(Error::new(e.kind(), what));
        }
        // A guest that cannot be examined boots unchanged, as it does in a mount.
        edits => edits.unwrap_or_else(|e| EditReport::failed(&e)),
    };
    if !request.quiet {
        eprint!("{}", edits.text());
    }
    let frozen = frozen_kernel(plan.loader.name()).filter(|_| result.partition.is_none());
    let warn = |written: Result<Vec<Pending>>| {
        if let Some(what) = frozen.filter(|_| written.is_ok() && !request.quiet) {
            let why = no_grub.as_ref().map_or_else(String::new, |e| format!(" ({e})"));
            eprintln!("warning: {what}{why}");
        }
        written
    };
    if result.format() != OutputFormat::Raw && backing.is_none() {
        let names: Vec<_> = set.files.iter().map(|file| file.name.clone()).collect();
        return warn(with_private_view(ExportSet::private(set.files), |view| {
            let one = |output: Output| {
                let exists = |name: &str| names.iter().any(|n| n == name);
                let file = match result.partition {
                    None => output.disk.clone(),
                    Some(number) => output.partition_file(number, exists)?,
                };
                write_converted(&view.open(&file)?, output.target, true, request)
            };
            outputs.into_iter().map(one).collect()
        }));
    }
    let one = |(range, output): (DiskRange, Output)| match &backing {
        Some(backing) => write_delta(&range, backing, output.target, request),
        None => write_raw(&Input::Disk(range), output.target, request),
    };
    warn(ranges.into_iter().zip(outputs).map(one).collect())
}

/// Makes GRUB the boot loader of a guest that boots its own kernel, unless another is requested;
/// returns the reason if this host has no GRUB.
pub(in crate::cli) fn prefer_grub(options: &mut SourceOptions) -> Option<Error> {
    if options.bootloader.is_some() {
        return None;
    }
    let grub = LoaderKind::grub();
    match grub.check_host(options.firmware.unwrap_or_default()) {
        Ok(()) => {
            options.preferred_loader = Some(grub);
            None
        }
        Err(e) => Some(e),
    }
}

/// A warning if the loader called `name` starts the same kernel for ever.
pub(in crate::cli) fn frozen_kernel(name: &str) -> Option<&'static str> {
    let loader = LoaderKind::by_name(name).ok()?;
    (loader.limits().is_some() && loader.chooses() == Chooses::Planner).then_some(
        "this disk always boots the kernel in its boot gap; kernels that the guest installs later do \
         not boot without synthdisk, and removing the present one breaks the guest",
    )
}

fn disk_of(planned: &PlannedDisk) -> OutputDisk {
    OutputDisk::new(planned.file.clone(), planned.vdev.clone(), planned.cdrom)
}

/// The bytes of a partition.
fn partition(planned: &PlannedDisk, number: u32) -> Result<DiskRange> {
    let placed = planned.layout.iter().flat_map(|l| &l.partitions).find(|p| p.number == number);
    let placed = placed.ok_or_else(|| no_partition(&planned.file, number))?;
    Ok(DiskRange::part(Arc::clone(&planned.disk), placed.start, placed.len))
}

/// Where the temporary overlay goes: next to the target if blocks can be shared there.
fn scratch_dir(output: &Path, reflink: Reflink) -> PathBuf {
    let dir = if output.is_dir() { Some(output) } else { output.parent() };
    let dir = dir.map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir });
    let beside = dir.filter(|dir| reflink != Reflink::Never && shares_blocks(dir));
    beside.map_or_else(temporary_dir, Path::to_path_buf)
}
