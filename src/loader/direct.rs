//! The direct loader: a boot program for a BIOS and one for UEFI that load a kernel from fixed
//! sectors of the disk, without reading a filesystem.
//!
//! Its space holds, in this order, the [stage 2](STAGE2) that the BIOS's boot code loads, the [parameter
//! block](Params), the command line, the kernel and its initrds. Kernel and initrds are regions
//! that read directly from their files.

mod code;
mod efi;
mod params;

pub use code::{
    CMDLINE_LBA, CMDLINE_MAX, INITRD_MAX, KERNEL_LBA, KERNEL_MAX, PARAMS_LBA, SECTOR, STAGE1,
    STAGE2, STAGE2_BYTES, STAGE2_LBA,
};
pub use efi::EFI_PROGRAM;
pub use params::{MESSAGE_MAX, Params};

use super::api::{BootOrder, InstalledLoader, Loader, Space, WantedPartition};
use super::efi_partition;
use super::firmware::FirmwareSet;
use super::payload::{Limits, Payload};
use crate::Result;
use crate::bytes::ReadAt;
use crate::disk::{Region, RegionKind, Source};
use crate::layout::{PartitionKind, TableKind};
use std::sync::Arc;

/// Minimum length of the gap, in bytes. Space for kernels that a guest may install later costs
/// nothing: it is zeros.
const MIN_GAP: u64 = 64 << 20;
/// Length of the BIOS boot partition in a GPT, in bytes.
const BIOS_BOOT_LEN: u64 = 1 << 20;
/// The first initrd starts at a multiple of this many bytes.
const FILE_ALIGN: u64 = 4096;
/// Initrds after the first start at multiples of this (kernel
/// Documentation/driver-api/early-userspace/buffer-format.rst).
const INITRD_ALIGN: u64 = 4;

/// The direct loader.
#[derive(Debug)]
pub(super) struct Direct;

impl Loader for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn about(&self) -> &'static str {
        "synthdisk's own loader; kernel and initrd lie in the boot gap"
    }

    fn limits(&self) -> Option<Limits> {
        Some(Limits { kernel: KERNEL_MAX, initrds: INITRD_MAX, cmdline: CMDLINE_MAX })
    }

    fn recognizes(&self, code: &[u8], _: &dyn ReadAt, _: u64) -> bool {
        code::is_stage1(code)
    }

    fn partitions(&self, table: TableKind, firmware: FirmwareSet) -> Vec<WantedPartition> {
        own_partitions(table, firmware)
    }

    fn reserve(&self, payload: Option<&Payload>) -> u64 {
        gap_for(payload)
    }

    fn install(&self, space: &Space) -> Result<Arc<dyn InstalledLoader>> {
        let firmware = space.firmware;
        let efi = match firmware.has_uefi() {
            true => efi_partition::regions(space, "synthdisk's loader", EFI_PROGRAM)?,
            false => Vec::new(),
        };
        let origin = space.origin / SECTOR;
        Ok(Arc::new(InstalledDirect {
            stage1: firmware.has_bios().then(|| code::stage1(origin)),
            efi,
            origin,
            end: space.gap.end,
        }))
    }
}

/// Length in bytes of the gap for `payload`: twice what it needs, so that a larger kernel that the
/// guest installs later, in an overlay, still fits.
///
/// All loaders that boot the guest use this length and [`own_partitions`], so that one can
/// replace another without moving the guest's partitions.
pub(super) fn gap_for(payload: Option<&Payload>) -> u64 {
    payload.map_or(0, |p| Placement::of(p, 0).end.saturating_mul(2)).max(MIN_GAP)
}

/// On a GPT disk, the partition in which GRUB, ours or one that the guest installs, embeds itself for
/// a BIOS, which the direct loader does not use; and for UEFI, the EFI system partition.
pub(super) fn own_partitions(table: TableKind, firmware: FirmwareSet) -> Vec<WantedPartition> {
    let bios = WantedPartition { kind: PartitionKind::BiosBoot, len: BIOS_BOOT_LEN };
    let bios = (table == TableKind::Gpt).then_some(bios);
    bios.into_iter().chain(firmware.has_uefi().then(efi_partition::wanted)).collect()
}

/// The direct loader on one disk.
#[derive(Debug)]
struct InstalledDirect {
    /// For a BIOS.
    stage1: Option<[u8; STAGE1.len()]>,
    /// For UEFI: the EFI system partition.
    efi: Vec<Region>,
    /// The sector from which its positions count.
    origin: u64,
    /// First byte after its space.
    end: u64,
}

impl InstalledLoader for InstalledDirect {
    fn boot_code(&self) -> &[u8] {
        self.stage1.as_ref().map_or(&[][..], |code| &code[..])
    }

    fn regions(&self, order: BootOrder<'_>) -> Vec<Region> {
        let mut regions = self.gap_regions(order);
        regions.extend_from_slice(&self.efi);
        regions
    }
}

impl InstalledDirect {
    fn gap_regions(&self, order: BootOrder<'_>) -> Vec<Region> {
        let mut regions = Vec::new();
        if self.stage1.is_some() && !matches!(order, BootOrder::Undecided) {
            let code = code::stage2(self.origin);
            let lba = self.origin + STAGE2_LBA;
            regions.push(bytes(lba, RegionKind::Loader, "loader, stage 2", &code));
        }
        match order {
            BootOrder::Undecided => {}
            BootOrder::Print(message) => regions.push(refusal(message, self.origin)),
            BootOrder::Start(payload) if Placement::of(payload, self.origin).end > self.end => {
                let message = "the guest's kernel and initrd have outgrown this disk's boot area; \
                               start with a new overlay";
                regions.push(refusal(message, self.origin));
            }
            BootOrder::Start(payload) => regions.extend(payload_regions(payload, self.origin)),
        }
        regions
    }
}

/// The positions of a payload's files on the disk, in bytes.
struct Placement {
    kernel: u64,
    initrds: Vec<u64>,
    /// First byte after the last file.
    end: u64,
}

impl Placement {
    /// For a loader whose origin is the sector `origin`.
    fn of(payload: &Payload, origin: u64) -> Self {
        let kernel = origin.saturating_add(KERNEL_LBA).saturating_mul(SECTOR);
        let mut end = kernel.saturating_add(payload.kernel.len);
        let mut initrds = Vec::new();
        for (i, initrd) in payload.initrds.iter().enumerate() {
            let align = if i == 0 { FILE_ALIGN } else { INITRD_ALIGN };
            let start = end.checked_next_multiple_of(align).unwrap_or(u64::MAX);
            initrds.push(start);
            end = start.saturating_add(initrd.len);
        }
        Self { kernel, initrds, end }
    }
}

/// The parameter block, the command line and the files.
fn payload_regions(payload: &Payload, origin: u64) -> Vec<Region> {
    let placement = Placement::of(payload, origin);
    let params = Params {
        token: payload.token(),
        kernel_lba: placement.kernel / SECTOR,
        kernel_bytes: payload.kernel.len,
        initrd: placement.initrds.first().map(|start| (start / SECTOR, placement.end - start)),
        cmdline_lba: origin + CMDLINE_LBA,
        cmdline_bytes: payload.cmdline.len() as u32,
        message: None,
    };
    let mut cmdline = payload.cmdline.clone().into_bytes();
    cmdline.resize(CMDLINE_MAX + 1, 0);
    let mut regions = vec![
        parameters(&params, origin),
        bytes(origin + CMDLINE_LBA, RegionKind::CommandLine, "kernel command line", &cmdline),
    ];
    let files = std::iter::once((placement.kernel, RegionKind::Kernel, &payload.kernel));
    let initrds = placement.initrds.into_iter().zip(&payload.initrds);
    let initrds = initrds.map(|(start, file)| (start, RegionKind::Initrd, file));
    regions.extend(files.chain(initrds).map(|(start, kind, file)| Region {
        start,
        len: file.len,
        kind,
        origin: file.origin.clone(),
        source: file.source.clone(),
    }));
    regions
}

/// The parameter block of a loader that prints `message` and stops.
fn refusal(message: &str, origin: u64) -> Region {
    let cmdline_lba = origin + CMDLINE_LBA;
    let message = Some(message.to_owned());
    parameters(&Params { cmdline_lba, message, ..Params::default() }, origin)
}

fn parameters(params: &Params, origin: u64) -> Region {
    bytes(origin + PARAMS_LBA, RegionKind::Parameters, "loader's parameters", &params.encode())
}

fn bytes(lba: u64, kind: RegionKind, origin: &str, bytes: &[u8]) -> Region {
    let (start, len) = (lba * SECTOR, bytes.len() as u64);
    Region { start, len, kind, origin: origin.into(), source: Source::Bytes(bytes.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Placed;
    use crate::loader::{MenuRules, PayloadFile};

    fn payload(kernel: u64, initrds: &[u64]) -> Payload {
        let file = |len: &u64| PayloadFile {
            origin: "file".into(),
            len: *len,
            source: Source::Zeros,
            identity: Vec::new(),
        };
        let initrds = initrds.iter().map(file).collect();
        Payload {
            kernel: file(&kernel),
            initrds,
            cmdline: "ro quiet".into(),
            menu: MenuRules::default(),
        }
    }

    /// Space with an EFI system partition where UEFI needs one.
    fn space(gap: u64, firmware: FirmwareSet) -> Space {
        let efi = efi_partition::wanted();
        let placed = Placed { number: 5, start: gap, len: efi.len, kind: efi.kind, active: false };
        let partitions = if firmware.has_uefi() { vec![placed] } else { Vec::new() };
        Space { origin: 0, gap: SECTOR..gap, partitions, firmware, volume_id: 7 }
    }

    fn installed(gap: u64) -> Arc<dyn InstalledLoader> {
        Direct.install(&space(gap, FirmwareSet::Bios)).unwrap()
    }

    fn params_of(regions: &[Region]) -> Params {
        let block = regions.iter().find(|r| r.kind == RegionKind::Parameters).unwrap();
        let Source::Bytes(bytes) = &block.source else { panic!("{block:?}") };
        Params::decode(bytes).unwrap()
    }

    #[test]
    fn the_gap_is_twice_the_payload_and_at_least_64_mib() {
        assert_eq!(Direct.reserve(None), MIN_GAP);
        assert_eq!(Direct.reserve(Some(&payload(1, &[]))), MIN_GAP);
        let large = payload(40 << 20, &[100 << 20]);
        assert_eq!(Direct.reserve(Some(&large)), 2 * (KERNEL_LBA * SECTOR + (140 << 20)));
        assert_eq!(Direct.reserve(Some(&payload(u64::MAX, &[u64::MAX]))), u64::MAX);
    }

    #[test]
    fn initrds_are_one_run_and_the_parameters_say_where() {
        let payload = payload(1000, &[5, 6]);
        let regions = installed(MIN_GAP).regions(BootOrder::Start(&payload));
        let starts: Vec<_> = regions.iter().map(|r| (r.start, r.kind)).collect();
        let kernel = KERNEL_LBA * SECTOR;
        assert_eq!(
            starts,
            [
                (STAGE2_LBA * SECTOR, RegionKind::Loader),
                (PARAMS_LBA * SECTOR, RegionKind::Parameters),
                (CMDLINE_LBA * SECTOR, RegionKind::CommandLine),
                (kernel, RegionKind::Kernel),
                (kernel + 4096, RegionKind::Initrd),
                (kernel + 4096 + 8, RegionKind::Initrd),
            ]
        );
        let params = params_of(&regions);
        assert_eq!((params.kernel_lba, params.kernel_bytes), (KERNEL_LBA, 1000));
        assert_eq!(params.initrd, Some((KERNEL_LBA + 8, 14)));
        assert_eq!((params.cmdline_bytes, params.message), (8, None));
        assert_eq!(params.token, payload.token());
    }

    #[test]
    fn all_positions_follow_the_origin() {
        let payload = payload(1000, &[5]);
        let origin = 3 << 40;
        let gap = origin..origin + MIN_GAP;
        let space = Space { origin, gap, ..space(MIN_GAP, FirmwareSet::Bios) };
        let there = Direct.install(&space).unwrap().regions(BootOrder::Start(&payload));
        let here = installed(MIN_GAP).regions(BootOrder::Start(&payload));
        for (there, here) in there.iter().zip(&here) {
            assert_eq!((there.start, there.len), (here.start + origin, here.len));
        }
        let (there, here) = (params_of(&there), params_of(&here));
        let lba = origin / SECTOR;
        assert_eq!(there.kernel_lba, here.kernel_lba + lba);
        assert_eq!(there.cmdline_lba, here.cmdline_lba + lba);
        assert_eq!(there.initrd.unwrap().0, here.initrd.unwrap().0 + lba);
    }

    #[test]
    fn on_uefi_only_the_partition_is_added() {
        let payload = payload(1000, &[5]);
        let of = |firmware, order: BootOrder<'_>| {
            let installed = Direct.install(&space(MIN_GAP, firmware)).unwrap();
            let regions = installed.regions(order);
            let (gap, efi) = regions.into_iter().partition(|r| r.start < MIN_GAP);
            (installed.boot_code().len(), places(gap), places(efi))
        };
        fn places(regions: Vec<Region>) -> Vec<(u64, u64, RegionKind)> {
            regions.iter().map(|r| (r.start, r.len, r.kind)).collect()
        }
        let start = BootOrder::Start(&payload);
        let (bios, both) = (of(FirmwareSet::Bios, start), of(FirmwareSet::Both, start));
        let uefi = of(FirmwareSet::Uefi, start);
        assert_eq!((bios.0, both.0, uefi.0), (STAGE1.len(), STAGE1.len(), 0));
        assert_eq!((&bios.1, &bios.1[1..]), (&both.1, &uefi.1[..]));
        assert!(bios.2.is_empty() && uefi.2 == both.2 && !both.2.is_empty());
        // The filesystem does not depend on what boots.
        for order in [BootOrder::Undecided, BootOrder::Print("no kernel")] {
            assert_eq!(of(FirmwareSet::Both, order).2, both.2);
        }
        let nowhere = Space { partitions: Vec::new(), ..space(MIN_GAP, FirmwareSet::Uefi) };
        assert!(Direct.install(&nowhere).is_err());
    }

    #[test]
    fn what_outgrows_the_gap_is_not_started() {
        let payload = payload(1 << 20, &[]);
        let fits = KERNEL_LBA * SECTOR + (1 << 20);
        let message = |gap| params_of(&installed(gap).regions(BootOrder::Start(&payload))).message;
        assert_eq!(message(fits), None);
        assert!(message(fits - 1).unwrap().contains("outgrown"));
        let said = params_of(&installed(fits).regions(BootOrder::Print("no kernel")));
        assert_eq!(said.message.as_deref(), Some("no kernel"));
        assert!(installed(fits).regions(BootOrder::Undecided).is_empty());
    }
}
