//! What is inside a guest, and whether it will run on KVM.
//!
//! Owns the report, the checks and the verdict. Examines a [`Plan`] from the outside, so that it
//! reports what a mount would do with the guest; may call everything below `plan`.

mod checks;
mod kernels;
mod partitions;
mod report;
mod verdict;

pub use kernels::{InitrdReport, KernelFormat, KernelReport};
pub use partitions::{
    ContentReport, DiskReport, Journal, PartitionReport, VolumeReport, journal_of,
};
pub use report::{
    Answer, Check, CommandLine, EditReport, EntryReport, GuestReport, MenuReport, Outcome, Report,
    Verdict,
};

use crate::fs::GuestFs;
use crate::guest::about;
use crate::guest::select::{BootSource, EntrySelector, choose};
use crate::loader::LoaderKind;
use crate::plan::{OverlayChoice, Plan, RootPlace, SourceOptions};
use crate::{Error, Result};

/// Inspect the guest that `options` describe, through the overlay that `choice` names.
///
/// # Errors
/// Fails only if the guest's disks cannot be assembled.
pub fn inspect(options: &SourceOptions, choice: &OverlayChoice) -> Result<Report> {
    let (plan, failure) = match Plan::build(options, choice) {
        Ok(plan) => (plan, None),
        Err(e) => {
            // Without a boot loader, the guest may still be inspected; otherwise the first error is
            // the most helpful one.
            let without = SourceOptions {
                bootloader: Some(LoaderKind::none()),
                kernel: None,
                initrds: Vec::new(),
                entry: None,
                ..options.clone()
            };
            match Plan::build(&without, choice) {
                Ok(plan) => (plan, Some(e)),
                Err(_) => return Err(e),
            }
        }
    };
    Ok(report(&plan, failure, options.entry.as_ref()))
}

fn report(plan: &Plan, failure: Option<Error>, entry: Option<&EntrySelector>) -> Report {
    let disks = partitions::disks(plan);
    let volumes = partitions::volumes(plan);
    let mut notes = plan.notes.clone();
    let root = plan.guest_files().and_then(|(file, fs)| match fs {
        Ok(fs) => Some((file, fs)),
        Err(e) => {
            notes.push(format!("the root filesystem cannot be read: {e}"));
            None
        }
    });
    let root_fs = root.as_ref().map(|(_, fs)| fs as &dyn GuestFs);
    let guest = root.as_ref().map(|(file, fs)| guest_report(file, fs));
    let boot_fs = boot_filesystem(plan, entry);
    let mut menu = None;
    let mut kernels = Vec::new();
    let mut guest_cmdline = None;
    if let Some(boot_fs) = &boot_fs {
        let boot = choose(&**boot_fs, entry).ok();
        let boots_here = plan
            .boot
            .as_ref()
            .is_some_and(|b| boot.as_ref().is_some_and(|boot| b.kernel.starts_with(&boot.kernel)));
        if let Some(boot) = &boot {
            if boots_here {
                guest_cmdline = Some(boot.cmdline.clone());
            }
            menu = menu_report(boot);
        }
        kernels = kernels::kernels(&**boot_fs, root_fs, boot.as_ref(), &mut notes);
    }
    let edits = match &plan.adaptation {
        Ok(Some(adaptation)) => adaptation.edits.iter().map(EditReport::from).collect(),
        Ok(None) => Vec::new(),
        Err(e) => {
            notes.push(format!("the guest cannot be adapted to KVM: {e}"));
            Vec::new()
        }
    };
    let command_line = plan.boot.as_ref().map(|boot| CommandLine {
        guest: guest_cmdline,
        boots: boot.cmdline.clone(),
        changes: boot.notes.clone(),
    });
    let mut report = Report {
        name: plan.name.clone(),
        verdict: Verdict::default(),
        disks,
        volumes,
        guest,
        menu,
        kernels,
        command_line,
        checks: Vec::new(),
        edits,
        notes,
    };
    report.checks = checks::checks(&report, plan);
    report.verdict = verdict::verdict(&report, plan, failure.as_ref());
    report
}

/// The filesystem that holds the boot menu or, failing that, a kernel: the first in which something
/// bootable is found.
fn boot_filesystem(plan: &Plan, entry: Option<&EntrySelector>) -> Option<Box<dyn GuestFs>> {
    let first = plan.disks.first()?;
    let mut places: Vec<_> = first.layout.iter().flat_map(|l| &l.partitions).collect();
    if first.layout.as_ref().is_some_and(|l| l.image_len.is_some()) {
        // As the planner looks for it.
        let root = plan.root.filter(|_| plan.boot.is_some()).and_then(|place| match place {
            RootPlace::Partition { number, .. } => Some(number),
            RootPlace::Volume(_) => None,
        });
        places.sort_by_key(|p| (Some(p.number) != root, !p.active, p.number));
    }
    let numbers = places.into_iter().map(|p| p.number);
    let readable = numbers.filter_map(|n| plan.filesystem(first, n).ok());
    let volumes = plan.volumes.iter().filter_map(|volume| plan.volume_filesystem(volume).ok());
    readable.chain(volumes).find(|fs| choose(&**fs, entry).is_ok())
}

fn guest_report(partition: &str, root: &dyn GuestFs) -> GuestReport {
    GuestReport {
        partition: partition.to_owned(),
        distribution: about::distribution(root),
        architecture: about::architecture(root),
        init: about::init(root),
        hostname: about::hostname(root),
        fstab: about::fstab(root),
        network: about::interfaces(root),
        console: about::gettys(root),
        root_account: about::root_account(root),
        tools: about::tools(root),
        lvm_filters: about::lvm_filters(root),
        cloud_init: about::cloud_init(root),
    }
}

fn menu_report(boot: &crate::guest::select::Boot) -> Option<MenuReport> {
    let BootSource::Config { path, format, index } = &boot.source else { return None };
    let entry = |e: &crate::guest::select::EntrySummary| EntryReport {
        title: e.title.clone(),
        kernel: e.kernel.clone(),
        default: e.index == *index,
        hypervisor: e.hypervisor,
    };
    Some(MenuReport {
        path: path.clone(),
        format: format.name(),
        entries: boot.entries.iter().map(entry).collect(),
    })
}
