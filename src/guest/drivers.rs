//! Which drivers a guest's kernel can use, and where they are: built in, in the initrd, or as
//! modules in the root filesystem.
//!
//! Sources: depmod's files in `/lib/modules/VERSION` (modules.dep(5)); kernel
//! Documentation/kbuild/kbuild.rst for `modules.builtin`.

mod modules;

pub use modules::Modules;

use serde::Serialize;

use crate::fs::GuestFs;
use crate::initrd::Initrd;

/// Where a driver is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Part of the kernel.
    Builtin,
    /// In the initrd, so it is available before the root filesystem.
    Initrd,
    /// In the root filesystem only.
    Module,
    /// Not available.
    Missing,
}

impl Place {
    /// Whether the driver can be used before the root filesystem is mounted.
    pub fn is_early(self) -> bool {
        matches!(self, Self::Builtin | Self::Initrd)
    }
}

/// A driver of the guest's kernel.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Driver {
    /// Its name, as `lsmod` shows it.
    pub name: &'static str,
    /// Where it is.
    pub place: Place,
    /// Its file in the root filesystem.
    pub path: Option<String>,
    /// The modules that must be loaded before it, in order.
    pub needs: Vec<String>,
}

/// The drivers that matter when a guest moves from Xen to KVM.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct KernelDrivers {
    /// The kernel's version, as `uname -r` prints it.
    pub version: String,
    /// The directory of its modules; `None` if the root filesystem has none for it.
    pub modules_dir: Option<String>,
    /// All drivers that are checked.
    pub drivers: Vec<Driver>,
}

/// A driver to check, alternatives that do the same work, and its name in the kernel's
/// configuration.
struct Known {
    name: &'static str,
    instead: &'static [&'static str],
    config: &'static str,
}

const fn known(name: &'static str, config: &'static str) -> Known {
    Known { name, instead: &[], config }
}

/// In listing order.
const KNOWN: [Known; 25] = [
    known("virtio_pci", "VIRTIO_PCI"),
    known("virtio_blk", "VIRTIO_BLK"),
    known("virtio_scsi", "SCSI_VIRTIO"),
    known("virtio_net", "VIRTIO_NET"),
    known("nvme", "BLK_DEV_NVME"),
    known("ahci", "SATA_AHCI"),
    known("ata_piix", "ATA_PIIX"),
    known("sd_mod", "BLK_DEV_SD"),
    // The IDE drivers from before libata: RHEL 5, Debian 4 to 6.
    known("piix", "BLK_DEV_PIIX"),
    known("ide_disk", "BLK_DEV_IDEDISK"),
    known("sym53c8xx", "SCSI_SYM53C8XX_2"),
    known("mptspi", "FUSION_SPI"),
    known("e1000", "E1000"),
    known("e1000e", "E1000E"),
    known("8139cp", "8139CP"),
    known("8139too", "8139TOO"),
    known("ext4", "EXT4_FS"),
    // ext4 has handled ext2 and ext3 since Linux 4.3, and could be configured to before.
    Known { name: "ext3", instead: &["ext4"], config: "EXT3_FS" },
    Known { name: "ext2", instead: &["ext4"], config: "EXT2_FS" },
    known("xfs", "XFS_FS"),
    known("btrfs", "BTRFS_FS"),
    known("xen_blkfront", "XEN_BLKDEV_FRONTEND"),
    known("xen_netfront", "XEN_NETDEV_FRONTEND"),
    known("vmw_pvscsi", "VMWARE_PVSCSI"),
    known("hv_storvsc", "HYPERV_STORAGE"),
];

impl KernelDrivers {
    /// The drivers of the kernel `version` in the root filesystem `fs`, which boots with `initrd`.
    pub fn look(fs: &dyn GuestFs, version: &str, initrd: Option<&Initrd>) -> Self {
        let modules = Modules::of_configuration(fs, version);
        let known = Modules::open(fs, version).map(|m| m.dir().to_owned());
        Self { modules_dir: known, ..Self::of(modules.as_ref(), version, initrd) }
    }

    /// As [`look`](Self::look), with the modules already opened.
    pub fn of(modules: Option<&Modules<'_>>, version: &str, initrd: Option<&Initrd>) -> Self {
        let drivers = KNOWN.iter().map(|known| driver(known, modules, version, initrd)).collect();
        let modules_dir = modules.map(|m| m.dir().to_owned());
        Self { version: version.to_owned(), modules_dir, drivers }
    }

    /// Where a driver is; [`Place::Missing`] for a driver that is not checked.
    pub fn place(&self, name: &str) -> Place {
        self.drivers.iter().find(|d| d.name == name).map_or(Place::Missing, |d| d.place)
    }

    /// Whether all of `names` can be used before the root filesystem is mounted.
    pub fn early(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.place(name).is_early())
    }
}

fn driver(
    known: &Known,
    modules: Option<&Modules<'_>>,
    version: &str,
    initrd: Option<&Initrd>,
) -> Driver {
    let names = || std::iter::once(known.name).chain(known.instead.iter().copied());
    let builtin = modules.is_some_and(|m| names().any(|n| m.is_builtin(n, known.config)));
    let early = initrd.is_some_and(|i| names().any(|n| i.has_driver(version, n)));
    let module = modules.and_then(|m| names().find_map(|n| m.find(n)));
    let place = match &module {
        _ if builtin => Place::Builtin,
        _ if early => Place::Initrd,
        Some(_) => Place::Module,
        None => Place::Missing,
    };
    let (path, needs) = match (module, modules) {
        (Some(name), Some(m)) if place != Place::Builtin => {
            let mut chain = m.chain(&name).unwrap_or_default();
            (chain.pop(), chain)
        }
        _ => (None, Vec::new()),
    };
    Driver { name: known.name, place, path, needs }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    const DEP: &str = "\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/fs/mbcache.ko
kernel/fs/jbd2/jbd2.ko:
kernel/fs/mbcache.ko:
kernel/drivers/block/xen-blkfront.ko:
";

    fn guest(dir: &str) -> MemFs {
        MemFs::new()
            .file(&format!("{dir}/6.1/modules.dep"), DEP)
            .file(&format!("{dir}/6.1/modules.builtin"), "kernel/drivers/ata/ahci.ko\n")
    }

    #[test]
    fn places_and_what_they_need() {
        for dir in ["/lib/modules", "/usr/lib/modules"] {
            let drivers = KernelDrivers::look(&guest(dir), "6.1", None);
            assert_eq!(drivers.modules_dir, Some(format!("{dir}/6.1")));
            for (name, place) in [
                ("ahci", Place::Builtin),
                ("virtio_blk", Place::Module),
                ("xen_blkfront", Place::Module),
                ("ext3", Place::Module),
                ("nvme", Place::Missing),
            ] {
                assert_eq!(drivers.place(name), place, "{name}");
            }
            let blk = drivers.drivers.iter().find(|d| d.name == "virtio_blk").unwrap();
            let at = |p: &str| format!("{dir}/6.1/kernel/drivers/{p}");
            assert_eq!(blk.path, Some(at("block/virtio_blk.ko.xz")));
            assert_eq!(blk.needs, [at("virtio/virtio.ko"), at("virtio/virtio_ring.ko")]);
            assert!(drivers.early(&["ahci"]) && !drivers.early(&["ahci", "virtio_blk"]));
        }
    }

    #[test]
    fn without_modules_nothing_is_known() {
        let drivers = KernelDrivers::look(&guest("/lib/modules"), "5.10", None);
        assert_eq!(drivers.modules_dir, None);
        assert!(drivers.drivers.iter().all(|d| d.place == Place::Missing));
        let json = serde_json::to_value(&drivers).unwrap();
        assert_eq!(json["drivers"][0]["name"], "virtio_pci");
        assert_eq!(json["drivers"][0]["place"], "missing");
    }

    #[test]
    fn a_kernel_without_a_list_of_what_is_built_in() {
        let fs = MemFs::new()
            .file("/lib/modules/2.6.32/modules.dep", "")
            .file("/boot/config-2.6.32", "CONFIG_ATA_PIIX=y\n# CONFIG_E1000 is not set\n")
            .file("/x", "");
        let drivers = KernelDrivers::look(&fs, "2.6.32", None);
        assert_eq!(drivers.place("ata_piix"), Place::Builtin);
        assert_eq!(drivers.place("e1000"), Place::Missing);
    }
}
