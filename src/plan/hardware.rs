//! Hardware that a guest can boot on: the bus to attach its disk to, and a network card for which
//! it has a driver.

use crate::guest::drivers::{KernelDrivers, Modules};
use crate::qemu::{DiskBus, NicModel};

/// Hardware that the guest has drivers for. The default is virtio for everything.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Hardware {
    /// The bus that disks are attached to.
    pub bus: DiskBus,
    /// The network card.
    pub nic: NicModel,
}

/// Drivers that the kernel needs before its root filesystem to detect a disk on a bus, preferred
/// bus first: the BIOS reads from IDE at a twentieth of the speed of the others. virtio-blk is not
/// in the list.
const OTHER_BUSES: [(DiskBus, &[&str]); 5] = [
    (DiskBus::VirtioScsi, &["virtio_pci", "virtio_scsi", "sd_mod"]),
    (DiskBus::Ahci, &["ahci", "sd_mod"]),
    (DiskBus::Nvme, &["nvme"]),
    (DiskBus::Ide, &["ata_piix", "sd_mod"]),
    (DiskBus::Ide, &["piix", "ide_disk"]),
];

/// A bus on which the kernel detects a disk even though it has no virtio-blk in time.
pub(super) fn other_bus(drivers: &KernelDrivers) -> Option<DiskBus> {
    let found = OTHER_BUSES.iter().find(|(_, names)| drivers.early(names));
    found.map(|(bus, _)| *bus)
}

/// The network card that the kernel has a driver for; its module may be on the root filesystem.
pub(super) fn card(modules: &Modules<'_>) -> NicModel {
    let has = |name: &str, config: &str, path: &str| {
        modules.is_builtin(name, config) || modules.is_at(&format!("drivers/net/{path}"))
    };
    let intel = || {
        has("e1000", "E1000", "ethernet/intel/e1000/e1000")
            || modules.is_at("drivers/net/e1000/e1000")
    };
    let realtek = || {
        ["8139cp", "8139too"].iter().any(|name| {
            has(name, &name.to_ascii_uppercase(), &format!("ethernet/realtek/{name}"))
                || modules.is_at(&format!("drivers/net/{name}"))
        })
    };
    if has("virtio_net", "VIRTIO_NET", "virtio_net") {
        NicModel::Virtio
    } else if intel() {
        NicModel::E1000
    } else if realtek() {
        NicModel::Rtl8139
    } else {
        NicModel::Virtio
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    fn guest(builtin: &[&str], modules: &[&str]) -> MemFs {
        let builtin: String = builtin.iter().map(|m| format!("kernel/x/{m}.ko\n")).collect();
        let fs = MemFs::new().file("/lib/modules/6.1/modules.builtin", builtin);
        modules
            .iter()
            .fold(fs, |fs, m| fs.file(&format!("/lib/modules/6.1/kernel/drivers/net/{m}"), ""))
    }

    #[test]
    fn buses() {
        for (builtin, bus) in [
            (&["ahci", "sd_mod", "ata_piix", "nvme"][..], Some(DiskBus::Ahci)),
            (&["ata_piix", "sd_mod", "nvme"], Some(DiskBus::Nvme)),
            (&["ata_piix", "sd_mod"], Some(DiskBus::Ide)),
            (&["virtio_scsi", "virtio_pci", "sd_mod", "ahci"], Some(DiskBus::VirtioScsi)),
            (&["ahci", "ata_piix"], None),
            (&["piix", "ide_disk"], Some(DiskBus::Ide)),
            (&["nvme"], Some(DiskBus::Nvme)),
        ] {
            let fs = guest(builtin, &[]);
            let drivers = KernelDrivers::look(&fs, "6.1", None);
            assert_eq!(other_bus(&drivers), bus, "{builtin:?}");
        }
    }

    #[test]
    fn cards() {
        let card = |builtin: &[&str], modules: &[&str]| {
            let fs = guest(builtin, modules);
            super::card(&Modules::open(&fs, "6.1").unwrap())
        };
        assert_eq!(card(&["virtio_net"], &[]), NicModel::Virtio);
        assert_eq!(card(&[], &["virtio_net.ko.xz"]), NicModel::Virtio);
        assert_eq!(card(&[], &["ethernet/intel/e1000/e1000.ko"]), NicModel::E1000);
        assert_eq!(card(&[], &["e1000/e1000.ko", "8139cp.ko"]), NicModel::E1000);
        assert_eq!(card(&[], &["ethernet/realtek/8139too.ko.zst"]), NicModel::Rtl8139);
        assert_eq!(card(&[], &[]), NicModel::Virtio);
    }
}
