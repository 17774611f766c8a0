//! The host's GRUB, embedded without `grub-install`: no root, no loop device, nothing written.
//!
//! What boots is what the guest's own boot menu says at that moment. GRUB's core image holds the
//! modules that menus use; a script in the gap (`menu.cfg`) reads the menu and adjusts the kernel
//! command lines of its entries. On UEFI, the core image is an EFI application in the EFI system
//! partition. Both are followed by `linux.mod`, which the script loads late, and
//! by the initrd with drivers that the guest lacks, if there is one. `docs/grub.md` explains why.

mod embed;
mod host;
mod settings;

use super::api::{BootOrder, Chooses, InstalledLoader, Loader, Space, WantedPartition};
use super::direct;
use super::efi_partition;
use super::firmware::FirmwareSet;
use super::payload::{Limits, Payload};
use crate::bytes::ReadAt;
use crate::disk::{Region, RegionKind, Source};
use crate::layout::{BOOTSTRAP_LEN, PartitionKind, SECTOR, TableKind};
use crate::{Error, ErrorKind, Result};
use embed::CORE_MAX;
pub use embed::{boot_code, core_at};
use host::Host;
use std::sync::Arc;

/// First sector of the core image, counted from the origin as all sectors here, unless it is in a
/// BIOS boot partition. A guest that writes its partition table keeps the first sectors of the disk
/// in its overlay, and these must not be parts of an older core image.
const CORE_LBA: u64 = 2048;
/// First sector of the script.
const SCRIPT_LBA: u64 = 4096;
/// Length of the script in sectors.
const SCRIPT_SECTORS: u64 = 64;
/// First sector of `linux.mod`.
const MODULE_LBA: u64 = SCRIPT_LBA + SCRIPT_SECTORS;
/// First sector of `linux.mod` for UEFI.
const EFI_MODULE_LBA: u64 = 6144;
/// First sector of the initrd with drivers.
const DRIVERS_LBA: u64 = 8192;

/// GRUB.
#[derive(Debug)]
pub(super) struct Grub;

impl Loader for Grub {
    fn name(&self) -> &'static str {
        "grub"
    }

    fn about(&self) -> &'static str {
        "The host's GRUB, which shows the guest's own boot menu, as it is when the disk boots"
    }

    /// GRUB loads whatever fits into memory; the kernel limits the command line.
    fn limits(&self) -> Option<Limits> {
        Some(Limits { kernel: 1 << 30, initrds: 1 << 31, cmdline: usize::MAX })
    }

    fn chooses(&self) -> Chooses {
        Chooses::GuestMenu
    }

    fn check_host(&self, firmware: FirmwareSet) -> Result<()> {
        hosts(firmware).map(|_| ())
    }

    /// A GRUB that the guest installs is in the first sectors after the MBR, or in a BIOS boot
    /// partition, which is empty if it was ours.
    fn recognizes(&self, code: &[u8], disk: &dyn ReadAt, origin: u64) -> bool {
        let Some(lba) = embed::core_sector(code) else { return false };
        let mut sector = [1; SECTOR as usize];
        let read = lba.checked_mul(SECTOR).map(|start| disk.read_at(&mut sector, start));
        lba == origin / SECTOR + CORE_LBA
            || (matches!(read, Some(Ok(()))) && sector == [0; SECTOR as usize])
    }

    fn partitions(&self, table: TableKind, firmware: FirmwareSet) -> Vec<WantedPartition> {
        direct::own_partitions(table, firmware)
    }

    fn reserve(&self, payload: Option<&Payload>) -> u64 {
        direct::gap_for(payload)
    }

    fn install(&self, space: &Space) -> Result<Arc<dyn InstalledLoader>> {
        let origin = space.origin / SECTOR;
        let has = space.gap.end.saturating_sub(space.origin);
        if space.gap.start > (origin + CORE_LBA) * SECTOR || has < DRIVERS_LBA * SECTOR {
            let needed = DRIVERS_LBA * SECTOR;
            let what = format!("GRUB needs a boot area of {needed} bytes, and this disk has {has}");
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        let (bios, uefi) = hosts(space.firmware)?;
        Ok(Arc::new(InstalledGrub {
            bios: bios.map(|host| BiosParts::of(&host, space)).transpose()?,
            uefi: uefi.map(|host| UefiParts::of(&host, space)).transpose()?,
            origin,
            end: space.gap.end,
        }))
    }
}

/// GRUB for the kinds of firmware in `firmware`: a BIOS, and UEFI.
fn hosts(firmware: FirmwareSet) -> Result<(Option<Host>, Option<Host>)> {
    let bios = firmware.has_bios().then(|| Host::find(host::BIOS)).transpose()?;
    Ok((bios, firmware.has_uefi().then(|| Host::find(host::UEFI)).transpose()?))
}

/// The script's sectors on the disk, in GRUB's notation.
fn script_sectors(space: &Space) -> String {
    format!("{}+{SCRIPT_SECTORS}", space.origin / SECTOR + SCRIPT_LBA)
}

/// Refuses a GRUB whose core image or linux module is larger than its place, in bytes.
fn check_size(core: &[u8], room: u64, module: &[u8], module_room: u64) -> Result<()> {
    if core.len() as u64 > room || module.len() as u64 > module_room {
        let what = format!(
            "the host's GRUB is too large ({} bytes, and {} for its linux module)",
            core.len(),
            module.len()
        );
        return Err(Error::new(ErrorKind::TooLarge, what));
    }
    Ok(())
}

/// What a BIOS starts.
#[derive(Debug)]
struct BiosParts {
    boot_code: [u8; BOOTSTRAP_LEN],
    core: Vec<u8>,
    core_lba: u64,
    module: Vec<u8>,
}

impl BiosParts {
    fn of(host: &Host, space: &Space) -> Result<Self> {
        let core = host.core_image(&script_sectors(space))?;
        let own = space.partitions.iter().find(|p| p.kind == PartitionKind::BiosBoot);
        let (lba, room) = match own {
            Some(p) => (p.start / SECTOR, p.len),
            None => (space.origin / SECTOR + CORE_LBA, CORE_MAX),
        };
        let module = host.linux_module()?;
        check_size(&core, room, &module, (EFI_MODULE_LBA - MODULE_LBA) * SECTOR)?;
        Ok(Self {
            boot_code: boot_code(&host.boot_image()?, lba)?,
            core: core_at(core, lba)?,
            core_lba: lba,
            module,
        })
    }
}

/// What UEFI starts.
#[derive(Debug)]
struct UefiParts {
    /// The EFI system partition.
    partition: Vec<Region>,
    module: Vec<u8>,
}

impl UefiParts {
    fn of(host: &Host, space: &Space) -> Result<Self> {
        let program = host.core_image(&script_sectors(space))?;
        let module = host.linux_module()?;
        check_size(&program, u64::MAX, &module, (DRIVERS_LBA - EFI_MODULE_LBA) * SECTOR)?;
        Ok(Self { partition: efi_partition::regions(space, "GRUB", &program)?, module })
    }
}

/// GRUB on one disk.
#[derive(Debug)]
struct InstalledGrub {
    bios: Option<BiosParts>,
    uefi: Option<UefiParts>,
    /// The sector from which its positions count.
    origin: u64,
    /// First byte after its space.
    end: u64,
}

impl InstalledLoader for InstalledGrub {
    fn boot_code(&self) -> &[u8] {
        self.bios.as_ref().map_or(&[][..], |bios| &bios.boot_code[..])
    }

    fn regions(&self, order: BootOrder<'_>) -> Vec<Region> {
        let (payload, message) = match order {
            BootOrder::Start(payload) => (Some(payload), None),
            BootOrder::Print(message) => (None, Some(message)),
            BootOrder::Undecided => (None, None),
        };
        let drivers = payload.filter(|p| !p.menu.drivers_for.is_empty());
        let drivers = drivers.and_then(|p| p.initrds.first());
        let [script, first_driver] = [SCRIPT_LBA, DRIVERS_LBA].map(|lba| self.origin + lba);
        let fits = |len: u64| (first_driver * SECTOR).saturating_add(len) <= self.end;
        let drivers = drivers.filter(|file| fits(file.len));
        let modules = [
            self.bios.as_ref().map(|bios| (self.origin + MODULE_LBA, &bios.module)),
            self.uefi.as_ref().map(|uefi| (self.origin + EFI_MODULE_LBA, &uefi.module)),
        ];
        let [bios_module, uefi_module] =
            modules.map(|found| found.map(|(lba, module)| (lba, sectors(module.len()))));
        let text = settings::script(&settings::Script {
            rules: payload.map(|p| &p.menu),
            message,
            bios_module,
            uefi_module,
            drivers: drivers.map(|file| (first_driver, file.len.div_ceil(SECTOR))),
            len: (SCRIPT_SECTORS * SECTOR) as usize,
        });
        let script = bytes(script, RegionKind::Parameters, "script for GRUB", text.as_bytes());
        let mut regions = vec![script];
        regions.extend(
            modules
                .into_iter()
                .flatten()
                .map(|(lba, module)| bytes(lba, RegionKind::Loader, "GRUB's linux module", module)),
        );
        regions.extend(drivers.map(|file| Region {
            start: first_driver * SECTOR,
            len: file.len,
            kind: RegionKind::Initrd,
            origin: file.origin.clone(),
            source: file.source.clone(),
        }));
        regions.extend(
            self.bios.iter().map(|bios| {
                bytes(bios.core_lba, RegionKind::Loader, "GRUB's core image", &bios.core)
            }),
        );
        regions.extend(self.uefi.iter().flat_map(|uefi| uefi.partition.iter().cloned()));
        regions.sort_by_key(|region| region.start);
        regions
    }
}

/// The number of sectors that `len` bytes take.
fn sectors(len: usize) -> u64 {
    (len as u64).div_ceil(SECTOR)
}

fn bytes(lba: u64, kind: RegionKind, origin: &str, bytes: &[u8]) -> Region {
    let (start, len) = (lba * SECTOR, bytes.len() as u64);
    Region { start, len, kind, origin: origin.into(), source: Source::Bytes(bytes.into()) }
}
