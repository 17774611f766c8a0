//! From a domU config and options to a machine.

use crate::export::StatusDisk;
use crate::plan::CIDATA_FILE;
use crate::qemu::{Accel, DiskBus, DriveSpec, MachineSpec, Nic, NicBackend, NicModel, Serial};
use crate::xen::DomainConfig;
use crate::{Error, ErrorKind, Result};
use std::ffi::OsString;
use std::path::Path;

/// RAM in MiB when neither the config nor an option says it.
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

/// What a user said about the machine; the config answers the rest.
#[derive(Clone, Debug, Default)]
pub struct MachineOptions {
    /// RAM in MiB.
    pub memory_mib: Option<u64>,
    /// Number of processors.
    pub vcpus: Option<u32>,
    /// Where disks are plugged in; `None` is where the guest can use them.
    pub bus: Option<DiskBus>,
    /// The network cards; `None` is for those that the guest can use.
    pub nic: Option<NicModel>,
    /// What cards are connected to.
    pub net: Net,
    /// Open a window.
    pub graphic: bool,
    /// Arguments for QEMU, as they are.
    pub extra_args: Vec<OsString>,
}

impl MachineOptions {
    /// With what a mount says that the guest needs, where nothing else was said: the names of a bus
    /// and of a card.
    #[must_use]
    pub fn with_needs(&self, bus: Option<&str>, nic: Option<&str>) -> Self {
        Self {
            bus: self.bus.or(bus.and_then(DiskBus::from_name)),
            nic: self.nic.or(nic.and_then(NicModel::from_name)),
            ..self.clone()
        }
    }
}

/// The machine for the guest `name`, with `disks` as they show in `dir`.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a disk that the chosen bus can't have.
pub fn machine(
    name: &str,
    domain: Option<&DomainConfig>,
    options: &MachineOptions,
    (dir, disks): (&Path, &[StatusDisk]),
    accel: Accel,
    serial: Serial,
) -> Result<MachineSpec> {
    let bus = options.bus.unwrap_or_default();
    let plain_bus = matches!(bus, DiskBus::Ahci | DiskBus::Ide);
    // That of cloud-init is for a guest that is recent enough to know virtio.
    let is_seed = |disk: &StatusDisk| disk.file == CIDATA_FILE;
    if let Some(disk) = disks.iter().find(|d| plain_bus && d.read_only && !d.cdrom && !is_seed(d)) {
        let what = format!(
            "{} is read-only, which a disk on this bus can't be; use --bus virtio, scsi or nvme",
            disk.vdev
        );
        return Err(Error::new(ErrorKind::Invalid, what));
    }
    let drives = disks.iter().map(|disk| DriveSpec {
        path: Some(dir.join(&disk.file)),
        bus: if plain_bus && is_seed(disk) { DiskBus::Virtio } else { bus },
        read_only: disk.read_only || disk.cdrom,
        cdrom: disk.cdrom,
        // By this the guest finds it in /dev/disk/by-id, whatever the bus.
        serial: Some(disk.vdev.clone()),
        ..DriveSpec::default()
    });
    Ok(MachineSpec {
        name: name.to_owned(),
        uuid: domain.and_then(|d| d.uuid.as_deref()).and_then(plain_uuid),
        memory_mib: options
            .memory_mib
            .or(domain.and_then(|d| d.memory_mib))
            .unwrap_or(DEFAULT_MEMORY_MIB),
        vcpus: options.vcpus.or(domain.and_then(|d| d.vcpus)).unwrap_or(1),
        accel,
        disks: drives.collect(),
        nics: nics(domain, options.net, options.nic.unwrap_or_default()),
        serial,
        graphic: options.graphic,
        no_reboot: domain.is_some_and(|d| d.on_reboot.as_deref() == Some("destroy")),
        extra_args: options.extra_args.clone(),
        ..MachineSpec::default()
    })
}

/// A UUID in the form that QEMU and libvirt read; other forms of it are rewritten.
pub fn plain_uuid(text: &str) -> Option<String> {
    uuid::Uuid::try_parse(text.trim()).ok().map(|uuid| uuid.hyphenated().to_string())
}

/// One card without a config; with one, those of `vif`.
fn nics(domain: Option<&DomainConfig>, net: Net, model: NicModel) -> Vec<Nic> {
    let Some(domain) = domain else {
        let card = || Nic { model, ..Nic::default() };
        return if net == Net::None { Vec::new() } else { vec![card()] };
    };
    let backend = |bridge: Option<&String>| match (net, bridge) {
        (Net::Bridge, Some(bridge)) => NicBackend::Bridge(bridge.clone()),
        _ => NicBackend::User,
    };
    let cards = domain.vifs.iter().map(|vif| Nic {
        mac: vif.mac_string(),
        backend: backend(vif.bridge.as_ref()),
        model,
    });
    if net == Net::None { Vec::new() } else { cards.collect() }
}

/// The disks that a mount of `domain` shows, for commands that print names without mounting: disks,
/// then cdroms; the first is `disk.raw`, later ones have their letter.
///
/// # Errors
/// Those of [`DomainConfig::layout`].
pub fn disks_of(domain: &DomainConfig) -> Result<Vec<StatusDisk>> {
    use crate::xen::{Access, GuestDiskContent};
    let mut disks = domain.layout()?;
    // An empty drive shows no file.
    disks.retain(|d| {
        !matches!(d.content, GuestDiskContent::Whole(spec) if spec.cdrom && spec.target.is_none())
    });
    disks.sort_by_key(|d| d.is_cdrom());
    let named = disks.iter().enumerate().map(|(i, disk)| StatusDisk {
        file: crate::plan::disk_file_name(i, &disk.letters(), disk.is_cdrom()),
        vdev: disk.name(),
        cdrom: disk.is_cdrom(),
        read_only: matches!(disk.content, GuestDiskContent::Whole(spec) if spec.access == Access::ReadOnly),
    });
    Ok(named.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> DomainConfig {
        DomainConfig::parse(text, Path::new("/etc/xen")).unwrap()
    }

    fn make(domain: Option<&DomainConfig>, options: &MachineOptions) -> MachineSpec {
        let disks = domain.map_or_else(Vec::new, |d| disks_of(d).unwrap());
        let place = (Path::new("/run/m"), disks.as_slice());
        machine("web1", domain, options, place, Accel::Tcg, Serial::Pipe).unwrap()
    }

    const WEB1: &str = "memory = 768\nvcpus = 2\non_reboot = 'destroy'\n\
        uuid = '0123ABCD-0123-0123-0123-0123456789AB'\n\
        vif = ['mac=00:16:3e:01:02:03,bridge=xenbr0', '']\n\
        disk = ['file:/a.img,xvda2,w', 'file:/swap.img,xvda1,w', 'phy:vg/b,xvdb,r', \
        'file:/c.iso,hdc:cdrom,r']";

    #[test]
    fn a_config_makes_the_machine() {
        let config = domain(WEB1);
        let spec = make(Some(&config), &MachineOptions::default());
        assert_eq!((spec.memory_mib, spec.vcpus, spec.no_reboot), (768, 2, true));
        assert_eq!(spec.uuid.as_deref(), Some("0123abcd-0123-0123-0123-0123456789ab"));
        let macs: Vec<_> = spec.nics.iter().map(|n| n.mac.as_deref()).collect();
        assert_eq!(macs, [Some("00:16:3e:01:02:03"), None]);
        assert!(spec.nics.iter().all(|n| n.backend == NicBackend::User));
        let disks: Vec<_> = spec
            .disks
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
    fn options_go_before_the_config() {
        let config = domain(WEB1);
        let options = MachineOptions {
            memory_mib: Some(2048),
            vcpus: Some(1),
            net: Net::Bridge,
            ..MachineOptions::default()
        };
        let spec = make(Some(&config), &options);
        assert_eq!((spec.memory_mib, spec.vcpus), (2048, 1));
        assert_eq!(spec.nics[0].backend, NicBackend::Bridge("xenbr0".into()));
        assert_eq!(spec.nics[1].backend, NicBackend::User);
        let none = MachineOptions { net: Net::None, ..options };
        assert!(make(Some(&config), &none).nics.is_empty());
        assert!(make(None, &none).nics.is_empty());
    }

    #[test]
    fn what_the_guest_needs_comes_after_what_was_said() {
        let needs = |options: &MachineOptions| options.with_needs(Some("ahci"), Some("rtl8139"));
        let config = domain(WEB1);
        let config = DomainConfig { disks: config.disks[..2].to_vec(), ..config };
        let spec = make(Some(&config), &needs(&MachineOptions::default()));
        assert!(spec.disks.iter().all(|d| d.bus == DiskBus::Ahci), "{spec:?}");
        assert!(spec.nics.iter().all(|n| n.model == NicModel::Rtl8139), "{spec:?}");
        let said = MachineOptions { bus: Some(DiskBus::Nvme), ..MachineOptions::default() };
        assert!(make(Some(&config), &needs(&said)).disks.iter().all(|d| d.bus == DiskBus::Nvme));
        let unknown = MachineOptions::default().with_needs(Some("floppy"), None);
        assert_eq!((unknown.bus, unknown.nic), (None, None));
    }

    #[test]
    fn without_a_config() {
        let spec = make(None, &MachineOptions::default());
        assert_eq!((spec.memory_mib, spec.vcpus, spec.nics.len()), (1024, 1, 1));
        assert_eq!(spec.uuid, None);
    }

    #[test]
    fn a_read_only_disk_needs_a_bus_that_can() {
        let config = domain("disk = ['file:/a.img,xvda,w', 'file:/b.img,xvdb,r']");
        let disks = disks_of(&config).unwrap();
        for bus in [DiskBus::Ide, DiskBus::Ahci] {
            let options = MachineOptions { bus: Some(bus), ..MachineOptions::default() };
            let place = (Path::new("/m"), disks.as_slice());
            let e = machine("n", None, &options, place, Accel::Tcg, Serial::Pipe).unwrap_err();
            assert!(e.to_string().contains("xvdb is read-only"), "{e}");
        }
    }
}
