//! The line with which `mount` shows how to boot its disks.

use crate::daemon::MountReport;
use crate::qemu::DiskBus;

/// A command that boots the disks when it is pasted into a shell.
pub(super) fn qemu_line(report: &MountReport) -> String {
    let (dir, hardware) = (&report.mountpoint, report.hardware);
    let memory_mib = report.memory_mib.unwrap_or(1024);
    let plain = |c: char| c.is_ascii_alphanumeric() || "/=.,_-:+@%".contains(c);
    let mut out = format!("qemu-system-x86_64 -machine accel=kvm:tcg -m {memory_mib}");
    let mut devices = String::new();
    match hardware.bus {
        DiskBus::VirtioScsi => devices.push_str(" -device virtio-scsi-pci,id=scsi"),
        DiskBus::Ahci => devices.push_str(" -device ich9-ahci,id=ahci"),
        DiskBus::Virtio | DiskBus::Nvme | DiskBus::Ide => {}
    }
    for (i, disk) in report.disks.iter().map(|d| &d.disk).enumerate() {
        let file = dir.join(&disk.file).display().to_string().replace(',', ",,");
        // A drive that QEMU does not plug in by itself gets a device of its own.
        let device = match hardware.bus {
            _ if disk.cdrom => None,
            DiskBus::Virtio | DiskBus::Ide => None,
            DiskBus::VirtioScsi => Some(format!("scsi-hd,bus=scsi.0,drive=d{i}")),
            DiskBus::Ahci => Some(format!("ide-hd,bus=ahci.{i},drive=d{i}")),
            DiskBus::Nvme => Some(format!("nvme,serial=d{i},drive=d{i}")),
        };
        let how = match (disk.cdrom, &device, hardware.bus) {
            (true, ..) => "media=cdrom,readonly=on".to_owned(),
            (false, Some(_), _) => format!("if=none,id=d{i},cache=none,aio=threads"),
            (false, None, DiskBus::Ide) => "if=ide,cache=none,aio=threads".to_owned(),
            (false, None, _) => "if=virtio,cache=none,aio=threads".to_owned(),
        };
        let snapshot = if disk.read_only && !disk.cdrom { ",snapshot=on" } else { "" };
        let drive = format!("file={file},format=raw,{how}{snapshot}");
        out.push_str(" -drive ");
        if drive.chars().all(plain) {
            out.push_str(&drive);
        } else {
            out.push_str(&format!("'{}'", drive.replace('\'', "'\\''")));
        }
        if let Some(device) = device {
            // Of several, the firmware is to boot the first.
            let index = if i == 0 { ",bootindex=1" } else { "" };
            devices.push_str(&format!(" -device {device}{index}"));
        }
    }
    let mac = report.macs.first().map(|mac| format!(",mac={mac}")).unwrap_or_default();
    format!("{out}{devices} -nic user,model={}{mac} -nographic", hardware.nic.name())
}
