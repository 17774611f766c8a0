//! Builds the description of a machine from a domU config, a mount's disks, and options.

use crate::daemon::MountReport;
use crate::export::StatusDisk;
use crate::plan::CIDATA_FILE;
use crate::qemu::{
    Aio, Clock, DiskBus, Drive, DriveKind, Firmware, Graphics, Lifecycle, Machine, Nic, NicBackend,
    NicModel, OnFull,
};
use crate::xen::DomainConfig;
use crate::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// RAM in MiB if neither the config nor an option specifies it.
pub const DEFAULT_MEMORY_MIB: u64 = 1024;

/// What network cards are connected to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Net {
    /// QEMU's own NAT, which needs no privileges
    #[default]
    User,
    /// The bridges that the config names, through qemu-bridge-helper
    Bridge,
    /// No cards
    None,
}

/// The user's choices for the machine; the config and the guest's requirements determine the rest.
#[derive(Clone, Debug, Default)]
pub struct MachineOptions {
    /// RAM in MiB.
    pub memory_mib: Option<u64>,
    /// Number of processors.
    pub vcpus: Option<u32>,
    /// The bus for disks; `None` means the bus that the guest has a driver for.
    pub bus: Option<DiskBus>,
    /// What cards are connected to.
    pub net: Net,
    /// The screen; `None` means as in the config.
    pub graphics: Option<Graphics>,
    /// How QEMU does I/O.
    pub aio: Aio,
}

/// Where the disks of a guest are.
#[derive(Clone, Copy, Debug)]
pub enum DiskPlace<'a> {
    /// Files in this directory, a mount.
    Directory(&'a Path),
    /// Exports of the NBD server on this Unix socket.
    Nbd(&'a Path),
}

impl<'a> DiskPlace<'a> {
    /// Where the disks are that `report` describes.
    pub fn of(report: &'a MountReport) -> Self {
        match report.uri {
            None => Self::Directory(&report.mountpoint),
            Some(_) => Self::Nbd(&report.mountpoint),
        }
    }

    /// The path and the kind of the drive for `disk`.
    fn drive(self, disk: &StatusDisk) -> (PathBuf, DriveKind) {
        match self {
            Self::Directory(dir) => (dir.join(&disk.file), DriveKind::File),
            Self::Nbd(socket) => (socket.to_path_buf(), DriveKind::Nbd(disk.file.clone())),
        }
    }
}

/// The disks of a mount, and the devices that the guest's kernel has drivers for.
#[derive(Clone, Copy, Debug)]
pub struct GuestDisks<'a> {
    /// Where QEMU finds them.
    pub place: DiskPlace<'a>,
    /// The disks; the firmware boots from the first.
    pub disks: &'a [StatusDisk],
    /// The bus that disks must be attached to.
    pub bus: DiskBus,
    /// The network card.
    pub nic: NicModel,
    /// The firmware that starts the first disk's loader.
    pub firmware: &'a Firmware,
}

/// The machine for the guest `name`. Options override the config, which overrides the defaults.
pub fn describe(
    name: &str,
    domain: Option<&DomainConfig>,
    guest: GuestDisks<'_>,
    options: &MachineOptions,
) -> Machine {
    let bus = options.bus.unwrap_or(guest.bus);
    let drives = guest.disks.iter().map(|disk| (disk, guest.place.drive(disk)));
    let drives = drives.map(|(disk, (path, kind))| Drive {
        path: Some(path),
        kind,
        // A guest that reads cloud-init's disk is recent enough to support virtio.
        bus: match disk.file == CIDATA_FILE && !bus.has_read_only_disks() {
            true => DiskBus::Virtio,
            false => bus,
        },
        read_only: disk.read_only || disk.cdrom,
        cdrom: disk.cdrom,
        // The guest finds the disk in /dev/disk/by-id by this serial number, on every bus.
        serial: Some(disk.vdev.clone()),
        aio: options.aio,
        // No space will be freed under a limit, so a paused guest could never go on.
        on_full: match disk.overlay_limit {
            Some(_) => OnFull::Report,
            None => OnFull::Pause,
        },
        ..Drive::default()
    });
    let memory_mib =
        options.memory_mib.or(domain.and_then(|d| d.memory_mib)).unwrap_or(DEFAULT_MEMORY_MIB);
    let vcpus = options.vcpus.or(domain.and_then(|d| d.vcpus)).unwrap_or(1);
    let shown = domain.is_some_and(|d| d.graphic);
    Machine {
        name: name.to_owned(),
        firmware: guest.firmware.clone(),
        uuid: domain.and_then(|d| d.uuid.as_deref()).and_then(plain_uuid),
        memory_mib,
        max_memory_mib: domain.and_then(|d| d.maxmem_mib).unwrap_or(0).max(memory_mib),
        vcpus,
        max_vcpus: domain.and_then(|d| d.maxvcpus).unwrap_or(0).max(vcpus),
        clock: match domain.is_some_and(|d| d.localtime) {
            true => Clock::LocalTime,
            false => Clock::Utc,
        },
        drives: drives.collect(),
        nics: nics(domain, options.net, guest.nic),
        graphics: options.graphics.unwrap_or(match shown {
            true => Graphics::Screen,
            false => Graphics::Headless,
        }),
        on_reboot: match domain.and_then(|d| d.on_reboot.as_deref()) {
            Some("destroy") => Lifecycle::Destroy,
            _ => Lifecycle::Restart,
        },
        on_crash: match domain.and_then(|d| d.on_crash.as_deref()) {
            Some("restart" | "coredump-restart" | "rename-restart") => Lifecycle::Restart,
            Some("preserve") => Lifecycle::Preserve,
            _ => Lifecycle::Destroy,
        },
        ..Machine::default()
    }
}

/// Check that the bus of every disk supports its settings.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a read-only disk on AHCI or IDE.
pub fn check_buses(machine: &Machine) -> Result<()> {
    let wrong =
        machine.drives.iter().find(|d| d.read_only && !d.cdrom && !d.bus.has_read_only_disks());
    let Some(drive) = wrong else { return Ok(()) };
    let name = drive.serial.as_deref().unwrap_or("a disk");
    Err(Error::new(
        ErrorKind::Invalid,
        format!(
            "{name} is read-only, and a disk on {} can't be; use --bus virtio, scsi or nvme",
            drive.bus.name()
        ),
    ))
}

/// A UUID in the format that QEMU and libvirt accept; other formats are converted.
pub fn plain_uuid(text: &str) -> Option<String> {
    uuid::Uuid::try_parse(text.trim()).ok().map(|uuid| uuid.hyphenated().to_string())
}

/// Without a config, one card; with a config, those of `vif`.
fn nics(domain: Option<&DomainConfig>, net: Net, model: NicModel) -> Vec<Nic> {
    if net == Net::None {
        return Vec::new();
    }
    let card = |(i, mac, bridge): (usize, Option<String>, Option<&String>)| Nic {
        mac,
        model,
        backend: match (net, bridge) {
            (Net::Bridge, Some(bridge)) => NicBackend::Bridge(bridge.clone()),
            _ => NicBackend::User,
        },
        slot: Nic::slot_of(i),
    };
    match domain {
        None => vec![card((0, None, None))],
        Some(domain) => {
            let vifs = domain.vifs.iter().enumerate();
            vifs.map(|(i, vif)| card((i, vif.mac_string(), vif.bridge.as_ref()))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> DomainConfig {
        DomainConfig::parse(text, Path::new("/etc/xen")).unwrap()
    }

    /// The disks in the order of the config, as a mount's status would list them.
    fn disks_of(domain: &DomainConfig) -> Vec<StatusDisk> {
        let disk = |(i, disk): (usize, &crate::xen::GuestDisk<'_>)| StatusDisk {
            file: crate::plan::disk_file_name(i, &disk.letters(), disk.is_cdrom()),
            vdev: disk.name(),
            cdrom: disk.is_cdrom(),
            read_only: disk.name() == "xvdb",
            overlay_bytes: 0,
            overlay_limit: None,
            boot_area: None,
        };
        domain.layout().unwrap().iter().enumerate().map(disk).collect()
    }

    fn make(domain: Option<&DomainConfig>, options: &MachineOptions) -> Machine {
        make_for(domain, options, DiskBus::Virtio, NicModel::Virtio)
    }

    fn make_for(
        domain: Option<&DomainConfig>,
        options: &MachineOptions,
        bus: DiskBus,
        nic: NicModel,
    ) -> Machine {
        let disks = domain.map_or_else(Vec::new, disks_of);
        let firmware = &Firmware::Bios;
        let guest = GuestDisks {
            place: DiskPlace::Directory(Path::new("/run/m")),
            disks: &disks,
            bus,
            nic,
            firmware,
        };
        describe("web1", domain, guest, options)
    }

    const WEB1: &str = "memory = 768\nvcpus = 2\non_reboot = 'destroy'\nmaxvcpus = 4\n\
        uuid = '0123ABCD-0123-0123-0123-0123456789AB'\nlocaltime = 1\nvnc = 1\n\
        vif = ['mac=00:16:3e:01:02:03,bridge=xenbr0', '']\n\
        disk = ['file:/a.img,xvda2,w', 'file:/swap.img,xvda1,w', 'phy:vg/b,xvdb,r', \
        'file:/c.iso,hdc:cdrom,r']";

    #[test]
    fn a_config_makes_the_machine() {
        let config = domain(WEB1);
        let machine = make(Some(&config), &MachineOptions::default());
        assert_eq!((machine.memory_mib, machine.max_memory_mib), (768, 768));
        assert_eq!((machine.vcpus, machine.max_vcpus), (2, 4));
        assert_eq!(machine.on_reboot, Lifecycle::Destroy);
        assert_eq!(machine.on_crash, Lifecycle::Destroy);
        assert_eq!((machine.clock, machine.graphics), (Clock::LocalTime, Graphics::Screen));
        assert_eq!(machine.uuid.as_deref(), Some("0123abcd-0123-0123-0123-0123456789ab"));
        let cards: Vec<_> = machine.nics.iter().map(|n| (n.mac.as_deref(), n.slot)).collect();
        assert_eq!(cards, [(Some("00:16:3e:01:02:03"), Some(3)), (None, Some(4))]);
        assert!(machine.nics.iter().all(|n| n.backend == NicBackend::User));
        let disks: Vec<_> = machine
            .drives
            .iter()
            .map(|d| (d.path.clone().unwrap().display().to_string(), d.read_only, d.cdrom))
            .collect();
        assert_eq!(
            disks,
            [
                ("/run/m/disk.raw".into(), false, false),
                ("/run/m/disk-b.raw".into(), true, false),
                ("/run/m/cdrom-c.raw".into(), true, true),
            ]
        );
    }

    #[test]
    fn options_override_the_config() {
        let config = domain(WEB1);
        let options = MachineOptions {
            memory_mib: Some(2048),
            vcpus: Some(1),
            net: Net::Bridge,
            graphics: Some(Graphics::Headless),
            ..MachineOptions::default()
        };
        let machine = make(Some(&config), &options);
        assert_eq!((machine.memory_mib, machine.max_memory_mib, machine.vcpus), (2048, 2048, 1));
        assert_eq!(machine.graphics, Graphics::Headless);
        assert_eq!(machine.nics[0].backend, NicBackend::Bridge("xenbr0".into()));
        assert_eq!(machine.nics[1].backend, NicBackend::User);
        let none = MachineOptions { net: Net::None, ..options };
        assert!(make(Some(&config), &none).nics.is_empty());
        assert!(make(None, &none).nics.is_empty());
    }

    #[test]
    fn options_override_what_the_guest_needs() {
        let config = domain(WEB1);
        let old = |options: &MachineOptions| {
            make_for(Some(&config), options, DiskBus::Ahci, NicModel::Rtl8139)
        };
        let machine = old(&MachineOptions::default());
        assert!(machine.drives.iter().all(|d| d.bus == DiskBus::Ahci), "{machine:?}");
        assert!(machine.nics.iter().all(|n| n.model == NicModel::Rtl8139), "{machine:?}");
        let nvme = MachineOptions { bus: Some(DiskBus::Nvme), ..MachineOptions::default() };
        assert!(old(&nvme).drives.iter().all(|d| d.bus == DiskBus::Nvme));
    }

    #[test]
    fn without_a_config() {
        let machine = make(None, &MachineOptions::default());
        assert_eq!((machine.memory_mib, machine.vcpus, machine.nics.len()), (1024, 1, 1));
        assert_eq!(machine.uuid, None);
    }

    #[test]
    fn a_read_only_disk_needs_a_bus_that_has_them() {
        let config = domain("disk = ['file:/a.img,xvda,w', 'file:/b.img,xvdb,r']");
        for bus in [DiskBus::Ide, DiskBus::Ahci] {
            let machine =
                make_for(Some(&config), &MachineOptions::default(), bus, NicModel::Virtio);
            let e = check_buses(&machine).unwrap_err();
            assert!(e.to_string().contains("xvdb is read-only"), "{e}");
        }
        let machine = make(Some(&config), &MachineOptions::default());
        check_buses(&machine).unwrap();
    }
}
