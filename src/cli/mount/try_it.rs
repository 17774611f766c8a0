//! The line in which `mount` and `serve` show how to boot the disks.

use crate::daemon::MountReport;
use crate::qemu::{Board, Graphics, allowed_by_kernel};
use crate::run::machine::{DiskPlace, GuestDisks, MachineOptions, describe};
use crate::xen::DomainConfig;
use std::path::Path;

/// A shell command that boots the disks, or why there is none. `domain` is the guest's config.
pub(in crate::cli) fn qemu_line(report: &MountReport, domain: Option<&DomainConfig>) -> String {
    let firmware = match report.firmware.find(Board::default()) {
        Ok(firmware) => firmware,
        Err(e) => return e.to_string(),
    };
    let disks = report.status_disks();
    let guest = GuestDisks {
        place: DiskPlace::of(report),
        disks: &disks,
        bus: report.hardware.bus,
        nic: report.hardware.nic,
        firmware: &firmware,
    };
    let options = MachineOptions {
        graphics: Some(Graphics::Headless),
        aio: allowed_by_kernel(),
        ..MachineOptions::default()
    };
    let machine = describe(&report.name, domain, guest, &options);
    machine.short_line(Path::new("qemu-system-x86_64"))
}
