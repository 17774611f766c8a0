//! The boot area of a disk: the partition table, and what a loader puts before the first of the
//! guest's partitions or, on a disk that keeps the table of its image, after the image.

use super::regions::RegionList;
use crate::Result;
use crate::disk::{Region, RegionKind};
use crate::layout::{
    BOOTSTRAP_LEN, GPT_LEN, Gpt, Ids, Layout, SECTOR, TableKind, check_code, mbr_sector,
};
use crate::loader::{BootOrder, FirmwareSet, InstalledLoader, LoaderKind, Space};
use std::ops::Range;
use std::sync::Arc;

/// The boot area of one disk, whose contents can be planned repeatedly.
#[derive(Clone, Debug)]
pub(super) struct BootArea {
    loader: LoaderKind,
    installed: Arc<dyn InstalledLoader>,
    space: Space,
    /// Sector 0: boot code and MBR.
    mbr: [u8; SECTOR as usize],
    has_code: bool,
    /// Header and entries of a GPT, from sector 1 on.
    primary: Vec<u8>,
    /// The backup copy, for the end of the disk.
    backup: Vec<u8>,
    end: u64,
}

impl BootArea {
    /// The boot area for a disk with `layout` that boots with `loader` under `firmware`.
    ///
    /// # Errors
    /// Those of encoding the partition table and of [`install`](crate::loader::Loader::install).
    pub(super) fn new(
        layout: &Layout,
        ids: &Ids,
        loader: LoaderKind,
        firmware: FirmwareSet,
    ) -> Result<Self> {
        let table_end = match layout.table {
            TableKind::Mbr => SECTOR,
            TableKind::Gpt => SECTOR + GPT_LEN,
        };
        let own = layout.partitions.iter().filter(|p| p.kind.is_loaders());
        let space = Space {
            origin: 0,
            gap: table_end..layout.gap(),
            partitions: own.copied().collect(),
            firmware,
            volume_id: ids.disk_id,
        };
        let installed = loader.install(&space)?;
        let code = installed.boot_code();
        let (mbr, primary, backup) = match layout.table {
            TableKind::Mbr => (mbr_sector(layout, ids.disk_id, code)?, Vec::new(), Vec::new()),
            TableKind::Gpt => {
                let Gpt { mbr, primary, backup } = Gpt::encode(layout, ids, code)?;
                (mbr, primary, backup)
            }
        };
        let (has_code, end) = (!code.is_empty(), layout.boot_area());
        Ok(Self { loader, installed, space, mbr, has_code, primary, backup, end })
    }

    /// The boot area for a disk with `layout`, which is that of an image whose sector 0 is `mbr`, and
    /// which has a `tail` for `loader`.
    ///
    /// # Errors
    /// Those of [`install`](crate::loader::Loader::install).
    pub(super) fn in_tail(
        tail: Range<u64>,
        mut mbr: [u8; SECTOR as usize],
        loader: LoaderKind,
    ) -> Result<Self> {
        let end = tail.end;
        // UEFI firmware starts what the image itself has.
        let space = Space {
            origin: tail.start,
            gap: tail,
            partitions: Vec::new(),
            firmware: FirmwareSet::Bios,
            volume_id: 0,
        };
        let installed = loader.install(&space)?;
        let code = installed.boot_code();
        check_code(code)?;
        mbr[..BOOTSTRAP_LEN].fill(0);
        mbr[..code.len()].copy_from_slice(code);
        let (primary, backup) = (Vec::new(), Vec::new());
        Ok(Self { loader, installed, space, mbr, has_code: true, primary, backup, end })
    }

    /// The bytes that depend on what boots; those before are the partition table and boot code.
    pub(super) fn planned(&self) -> Range<u64> {
        self.space.gap.start..self.end
    }

    /// The byte of the disk from which the loader's positions count.
    pub(super) fn origin(&self) -> u64 {
        self.space.origin
    }

    /// Sector 0.
    pub(super) fn mbr(&self) -> &[u8] {
        &self.mbr
    }

    /// The firmware that the disk boots under.
    pub(super) fn firmware(&self) -> FirmwareSet {
        self.space.firmware
    }

    /// First byte after the boot area.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The loader that uses this boot area.
    pub(super) fn loader(&self) -> LoaderKind {
        self.loader
    }

    /// The loader's boot code.
    pub(super) fn boot_code(&self) -> &[u8] {
        self.installed.boot_code()
    }

    /// The backup copy of a GPT, for the end of the disk; empty for an MBR.
    pub(super) fn backup(&self) -> &[u8] {
        &self.backup
    }

    /// The regions from the loader's origin to the end of the boot area.
    pub(super) fn regions(&self, order: BootOrder<'_>) -> Vec<Region> {
        let mut out = RegionList::default();
        if self.space.origin == 0 {
            let code = if self.has_code { "loader, stage 1, and " } else { "" };
            out.bytes(0, RegionKind::Mbr, &format!("{code}partition table"), &self.mbr);
            out.bytes(SECTOR, RegionKind::Table, "GPT", &self.primary);
        }
        let mut end = self.space.gap.start;
        for region in self.installed.regions(order) {
            self.zeros(end, region.start, &mut out);
            end = region.end();
            out.append(vec![region]);
        }
        self.zeros(end, self.end, &mut out);
        out.finish()
    }

    /// Zeros from `start` to `stop`, attributed to the loader partitions that contain them.
    fn zeros(&self, start: u64, stop: u64, out: &mut RegionList) {
        let mut at = start;
        for p in self.space.partitions.iter().filter(|p| p.end() > start && p.start < stop) {
            let inside = p.start.max(at)..p.end().min(stop);
            out.zeros(at, inside.start, RegionKind::Gap);
            out.zeros(inside.start, inside.end, RegionKind::Partition(p.number));
            at = inside.end;
        }
        out.zeros(at, stop, RegionKind::Gap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::ReadAt;
    use crate::disk::{RegionTable, Source};
    use crate::layout::{LayoutSpec, PartitionKind, PartitionSpec};
    use crate::loader::{Limits, Loader, Payload, WantedPartition};

    /// A loader with stage 2 in the gap (its boot code contains the location), one in a BIOS boot
    /// partition, and files in an EFI system partition.
    #[derive(Debug)]
    struct Everywhere;

    fn region(start: u64, len: u64, text: &str) -> Region {
        let bytes: Vec<u8> = text.bytes().cycle().take(len as usize).collect();
        let source = Source::Bytes(bytes.into());
        Region { start, len, kind: RegionKind::Loader, origin: text.into(), source }
    }

    impl Loader for Everywhere {
        fn name(&self) -> &'static str {
            "everywhere"
        }

        fn about(&self) -> &'static str {
            "for tests"
        }

        fn limits(&self) -> Option<Limits> {
            None
        }

        fn partitions(&self, table: TableKind, _: FirmwareSet) -> Vec<WantedPartition> {
            let want = |kind, len| WantedPartition { kind, len };
            let bios = want(PartitionKind::BiosBoot, 1 << 20);
            let efi = want(PartitionKind::EfiSystem, 4 << 20);
            if table == TableKind::Gpt { vec![bios, efi] } else { vec![efi] }
        }

        fn reserve(&self, _: Option<&Payload>) -> u64 {
            1 << 20
        }

        fn install(&self, space: &Space) -> Result<Arc<dyn InstalledLoader>> {
            let code = (space.gap.start / SECTOR).to_le_bytes();
            Ok(Arc::new(InstalledEverywhere { code, space: space.clone() }))
        }
    }

    #[derive(Debug)]
    struct InstalledEverywhere {
        code: [u8; 8],
        space: Space,
    }

    impl InstalledLoader for InstalledEverywhere {
        fn boot_code(&self) -> &[u8] {
            &self.code
        }

        fn regions(&self, _: BootOrder<'_>) -> Vec<Region> {
            let gap = region(self.space.gap.start, 1000, "gap");
            let own = self.space.partitions.iter();
            std::iter::once(gap).chain(own.map(|p| region(p.start + 4096, 512, "own"))).collect()
        }
    }

    fn layout(table: TableKind) -> Layout {
        let part = |number, len, kind| PartitionSpec { number, len, kind, active: false };
        let own = Everywhere.partitions(table, FirmwareSet::Bios);
        let own = (3..).zip(own).map(|(number, p)| part(number, p.len, p.kind));
        let guest = [part(1, 1 << 20, PartitionKind::Linux), part(2, 1 << 20, PartitionKind::Swap)];
        let (align, gap, table) = (1 << 20, Everywhere.reserve(None), Some(table));
        let partitions = own.chain(guest).collect();
        Layout::compute(&LayoutSpec { align, gap, table, partitions }).unwrap()
    }

    fn kinds(table: &RegionTable) -> Vec<(u64, RegionKind)> {
        table.regions().iter().map(|r| (r.start, r.kind)).collect()
    }

    #[test]
    fn a_loader_may_use_the_gap_and_partitions_of_its_own() {
        let own = LoaderKind::of_test(&Everywhere);
        let mib = 1 << 20;
        for (table, first, list) in [
            (TableKind::Mbr, 1, &[(mib, 4 * mib, 3)][..]),
            (TableKind::Gpt, 34, &[(mib, mib, 3), (2 * mib, 4 * mib, 4)]),
        ] {
            let layout = layout(table);
            let area = BootArea::new(&layout, &Ids::derive(b"x"), own, FirmwareSet::Bios).unwrap();
            assert_eq!(area.end(), layout.partitions.iter().find(|p| p.number == 1).unwrap().start);
            assert_eq!(area.mbr[..8], u64::to_le_bytes(first));
            let regions = RegionTable::new(area.regions(BootOrder::Undecided)).unwrap();
            assert_eq!(regions.len(), area.end());
            let mut want = vec![(0, RegionKind::Mbr)];
            if table == TableKind::Gpt {
                want.push((SECTOR, RegionKind::Table));
            }
            let code = first * SECTOR;
            want.extend([(code, RegionKind::Loader), (code + 1000, RegionKind::Gap)]);
            for (start, len, number) in list {
                assert!(layout.partitions.iter().any(|p| (p.start, p.len) == (*start, *len)));
                want.extend([
                    (*start, RegionKind::Partition(*number)),
                    (start + 4096, RegionKind::Loader),
                    (start + 4096 + 512, RegionKind::Partition(*number)),
                ]);
            }
            assert_eq!(kinds(&regions), want, "{table:?}");
        }
    }

    #[test]
    fn without_a_loader_there_is_a_table_and_zeros() {
        let part =
            PartitionSpec { number: 1, len: 1 << 20, kind: PartitionKind::Linux, active: true };
        let spec = LayoutSpec { align: 1 << 20, gap: SECTOR, table: None, partitions: vec![part] };
        let layout = Layout::compute(&spec).unwrap();
        let (ids, none) = (Ids::derive(b"x"), LoaderKind::none());
        let area = BootArea::new(&layout, &ids, none, FirmwareSet::Bios).unwrap();
        let regions = RegionTable::new(area.regions(BootOrder::Undecided)).unwrap();
        assert_eq!(kinds(&regions), [(0, RegionKind::Mbr), (SECTOR, RegionKind::Gap)]);
        assert_eq!(regions.regions()[0].origin, "partition table");
        assert_eq!(area.mbr[..440], [0; 440]);
        assert!(area.backup().is_empty());
    }
}
