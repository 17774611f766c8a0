//! The positions of the boot gap and the partitions on the disk.

use super::kind::{GPT_LEN, GPT_NUMBERS, MBR_MAX_SECTORS, MBR_NUMBERS, PartitionKind, TableKind};
use super::{SECTOR, format_size, round_up};
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The tail begins and ends at multiples of this many bytes, so that no cluster of an overlay holds
/// both bytes of the image and bytes that a loader plans.
const TAIL_ALIGN: u64 = 2 << 20;

/// A partition to place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PartitionSpec {
    /// Number in the table, from 1. Guests know it as the N in `xvdaN`.
    pub number: u32,
    /// Length in bytes; rounded up to whole sectors.
    pub len: u64,
    /// Its type.
    pub kind: PartitionKind,
    /// Whether the legacy BIOS "active" flag is set.
    pub active: bool,
}

/// The input of a layout.
#[derive(Clone, Debug)]
pub struct LayoutSpec {
    /// Partitions start at multiples of this many bytes; itself a multiple of 512.
    pub align: u64,
    /// Minimum space before the first partition in bytes, including the MBR.
    pub gap: u64,
    /// Type of table; `None` for an MBR if it can describe the disk, else a GPT.
    pub table: Option<TableKind>,
    /// In disk order.
    pub partitions: Vec<PartitionSpec>,
}

/// A partition with its position. Offsets and lengths are in bytes, multiples of 512.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Placed {
    /// Number in the table, from 1.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Its type.
    pub kind: PartitionKind,
    /// Whether the active flag is set.
    pub active: bool,
}

impl Placed {
    /// First byte after the partition.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// Offsets of everything on the disk, in bytes. An overlay stores nothing else about the layout.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    /// Length of the whole disk in bytes.
    pub len: u64,
    /// Type of partition table.
    pub table: TableKind,
    /// Partitions in disk order, disjoint.
    pub partitions: Vec<Placed>,
    /// For a disk that is a single image with a partition table of its own: the length of that
    /// image in bytes, in whole sectors. The table describes no more than the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_len: Option<u64>,
}

impl Layout {
    /// The layout of an image of `image_len` bytes with a partition table of its own, which has
    /// these `partitions`. `tail` bytes for a loader follow the image; 0 for none.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`]; those of [`Layout::validate`].
    pub fn of_image(
        table: TableKind,
        image_len: u64,
        mut partitions: Vec<Placed>,
        tail: u64,
    ) -> Result<Self> {
        let too_large = || Error::new(ErrorKind::TooLarge, "the disk would be too large");
        partitions.sort_by_key(|p| p.start);
        let image_len = round_up(image_len, SECTOR).ok_or_else(too_large)?;
        let len = match tail {
            0 => image_len,
            tail => {
                let start = round_up(image_len, TAIL_ALIGN).ok_or_else(too_large)?;
                let end = start.checked_add(tail).ok_or_else(too_large)?;
                round_up(end, TAIL_ALIGN).ok_or_else(too_large)?
            }
        };
        let layout = Self { len, table, partitions, image_len: Some(image_len) };
        layout.validate()?;
        Ok(layout)
    }

    /// The space for a loader after an image with a partition table of its own, in bytes of the
    /// disk. No partition of the table reaches it. `None` if there is none.
    pub fn tail(&self) -> Option<Range<u64>> {
        let start = round_up(self.image_len?, TAIL_ALIGN)?;
        (start < self.len).then_some(start..self.len)
    }

    /// Places the partitions of `spec` one after the other, each at a multiple of `align`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an alignment that is not a multiple of a sector, for partition
    /// numbers that the table does not support or that are used twice, and for an empty partition;
    /// [`ErrorKind::TooLarge`] for a disk that the table cannot describe.
    pub fn compute(spec: &LayoutSpec) -> Result<Self> {
        if let Some(kind) = spec.table {
            return Self::with_table(spec, kind);
        }
        let numbers_fit = spec.partitions.iter().all(|p| p.number <= MBR_NUMBERS);
        match Self::with_table(spec, TableKind::Mbr) {
            Err(e) if e.kind() == ErrorKind::TooLarge || !numbers_fit => {
                Self::with_table(spec, TableKind::Gpt)
            }
            done => done,
        }
    }

    fn with_table(spec: &LayoutSpec, table: TableKind) -> Result<Self> {
        if spec.align == 0 || spec.align % SECTOR != 0 {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the alignment must be a multiple of 512 bytes, for example 1M or 63s",
            ));
        }
        let too_large = || {
            let what = match table {
                TableKind::Mbr => {
                    "the disk would be larger than 2 TiB, the most an MBR partition table can \
                     describe; a GPT can (--table gpt)"
                }
                TableKind::Gpt => "the disk would be too large",
            };
            Error::new(ErrorKind::TooLarge, what)
        };
        let align_up = |n| round_up(n, spec.align).ok_or_else(too_large);
        let Bounds { head, tail, numbers, max_len } = Bounds::of(table);

        let mut partitions: Vec<Placed> = Vec::with_capacity(spec.partitions.len());
        let mut next = align_up(spec.gap.max(head))?;
        for p in &spec.partitions {
            if !(1..=numbers).contains(&p.number) {
                let what = match table {
                    TableKind::Mbr => "an MBR has four; a GPT has more (--table gpt)",
                    TableKind::Gpt => "a GPT has 128",
                };
                let what = format!("there can be no partition {}: {what}", p.number);
                return Err(Error::new(ErrorKind::Invalid, what));
            }
            if partitions.iter().any(|q| q.number == p.number) {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("partition number {} is used twice", p.number),
                ));
            }
            let len = round_up(p.len, SECTOR).ok_or_else(too_large)?;
            if len == 0 {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("partition {} would be empty", p.number),
                ));
            }
            partitions.push(Placed {
                number: p.number,
                start: next,
                len,
                kind: p.kind,
                active: p.active,
            });
            next = align_up(next.checked_add(len).ok_or_else(too_large)?)?;
        }
        let len =
            if tail > 0 { align_up(next.checked_add(tail).ok_or_else(too_large)?)? } else { next };
        if len > max_len {
            return Err(too_large());
        }
        Ok(Self { len, table, partitions, image_len: None })
    }

    /// Length in bytes of the space before the first partition, including the MBR.
    pub fn gap(&self) -> u64 {
        self.partitions.first().map_or(self.len, |p| p.start)
    }

    /// Length in bytes of the boot area: everything before the first of the guest's partitions,
    /// including a loader's own partitions.
    pub fn boot_area(&self) -> u64 {
        self.partitions.iter().find(|p| !p.kind.is_loaders()).map_or(self.len, |p| p.start)
    }

    /// Checks that a layout read from a file is sorted, disjoint, in whole sectors and within the
    /// disk.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] with the first problem.
    pub fn validate(&self) -> Result<()> {
        let corrupt = |what: String| Err(Error::new(ErrorKind::Corrupt, what));
        let Bounds { head, tail, numbers, max_len } = match self.image_len {
            None => Bounds::of(self.table),
            Some(image_len) => Bounds::of_image(self.len, image_len),
        };
        let usable = self.len.saturating_sub(tail);
        if self.len % SECTOR != 0 || self.len > max_len || tail > self.len {
            return corrupt(format!("invalid disk length {}", format_size(self.len)));
        }
        let mut end = head;
        for p in &self.partitions {
            let fits = p.start.checked_add(p.len).is_some_and(|e| e <= usable);
            if p.start < end || !fits || p.len == 0 || p.start % SECTOR != 0 || p.len % SECTOR != 0
            {
                return corrupt(format!("invalid place of partition {}", p.number));
            }
            if !(1..=numbers).contains(&p.number) {
                return corrupt(format!("there is no partition number {}", p.number));
            }
            end = p.end();
        }
        Ok(())
    }
}

/// The space that a table occupies at both ends of the disk, and its limits. Lengths in bytes.
struct Bounds {
    head: u64,
    tail: u64,
    numbers: u32,
    max_len: u64,
}

impl Bounds {
    /// A table that is the image's own is where it is; its partitions may be anywhere else.
    fn of_image(len: u64, image_len: u64) -> Self {
        Self {
            head: SECTOR,
            tail: if image_len > len { u64::MAX } else { len - image_len },
            numbers: u32::MAX,
            max_len: i64::MAX as u64 / 2,
        }
    }

    fn of(table: TableKind) -> Self {
        match table {
            TableKind::Mbr => Self {
                head: SECTOR,
                tail: 0,
                numbers: MBR_NUMBERS,
                max_len: MBR_MAX_SECTORS * SECTOR,
            },
            TableKind::Gpt => Self {
                head: SECTOR + GPT_LEN,
                tail: GPT_LEN,
                numbers: GPT_NUMBERS,
                // A file's length must fit a signed 64-bit number.
                max_len: i64::MAX as u64 / 2,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32, len: u64, kind: PartitionKind) -> PartitionSpec {
        PartitionSpec { number, len, kind, active: number == 1 }
    }

    #[test]
    fn old_cylinder_gap() {
        let layout = Layout::compute(&LayoutSpec {
            align: 63 * SECTOR,
            gap: SECTOR,
            table: None,
            partitions: vec![part(1, 1000, PartitionKind::Linux)],
        })
        .unwrap();
        assert_eq!(layout.gap(), 63 * SECTOR);
        assert_eq!(layout.partitions[0].len, 1024);
        assert_eq!(layout.len, 2 * 63 * SECTOR);
    }

    #[test]
    fn partitions_are_aligned_and_disjoint() {
        let layout = Layout::compute(&LayoutSpec {
            align: 1 << 20,
            gap: 64 << 20,
            table: None,
            partitions: vec![
                part(1, (5 << 20) + 7, PartitionKind::Linux),
                part(2, 512 << 20, PartitionKind::Swap),
            ],
        })
        .unwrap();
        assert_eq!(layout.gap(), 64 << 20);
        assert_eq!(layout.partitions[1].start, 70 << 20);
        assert_eq!(layout.len, 582 << 20);
        layout.validate().unwrap();
    }

    #[test]
    fn refuses_what_cannot_be() {
        let spec = |align, len, number| LayoutSpec {
            align,
            gap: 0,
            table: Some(TableKind::Mbr),
            partitions: vec![part(number, len, PartitionKind::Linux)],
        };
        for (spec, kind) in [
            (spec(1000, 512, 1), ErrorKind::Invalid),
            (spec(0, 512, 1), ErrorKind::Invalid),
            (spec(512, 0, 1), ErrorKind::Invalid),
            (spec(512, 512, 5), ErrorKind::Invalid),
            (spec(512, 2 << 40, 1), ErrorKind::TooLarge),
            (spec(1 << 20, u64::MAX, 1), ErrorKind::TooLarge),
        ] {
            assert_eq!(Layout::compute(&spec).unwrap_err().kind(), kind);
        }
    }

    #[test]
    fn gpt_where_an_mbr_cannot_do() {
        let compute = |number, len| {
            Layout::compute(&LayoutSpec {
                align: 1 << 20,
                gap: 0,
                table: None,
                partitions: vec![part(number, len, PartitionKind::Linux)],
            })
        };
        assert_eq!(compute(4, 1 << 20).unwrap().table, TableKind::Mbr);
        for (number, len) in [(5, 1 << 20), (1, 3 << 40)] {
            let layout = compute(number, len).unwrap();
            assert_eq!(layout.table, TableKind::Gpt);
            assert!(layout.partitions[0].end() + GPT_LEN <= layout.len);
            layout.validate().unwrap();
        }
        assert!(compute(129, 1 << 20).is_err());
        assert!(compute(0, 1 << 20).is_err());
    }

    #[test]
    fn an_image_keeps_its_partitions_and_gets_a_tail() {
        let mib = 1 << 20;
        let place = |number, start, len| {
            let kind = PartitionKind::Linux;
            Placed { number, start, len, kind, active: false }
        };
        let parts = vec![place(5, 2 * mib, mib), place(1, 63 * SECTOR, mib)];
        let of = |len, tail| Layout::of_image(TableKind::Mbr, len, parts.clone(), tail);
        let plain = of(3 * mib, 0).unwrap();
        assert_eq!((plain.len, plain.tail()), (3 * mib, None));
        assert_eq!(plain.partitions, [place(1, 63 * SECTOR, mib), place(5, 2 * mib, mib)]);
        let odd = of(3 * mib + 1, 0).unwrap();
        assert_eq!((odd.len, odd.tail()), (3 * mib + SECTOR, None));
        let booting = of(3 * mib + 1, 64 * mib + 1).unwrap();
        assert_eq!(booting.tail(), Some(4 * mib..70 * mib));
        assert_eq!(booting.len, 70 * mib);
        let text = serde_json::to_string(&booting).unwrap();
        assert_eq!(serde_json::from_str::<Layout>(&text).unwrap(), booting);
        assert!(of(3 * mib - 1, 0).is_ok() && of(3 * mib - SECTOR, 0).is_err(), "the last one");
        assert!(of(u64::MAX, 1).is_err() && of(mib, u64::MAX).is_err());
        let lies = Layout { image_len: Some(80 * mib), ..booting };
        assert!(lies.validate().is_err());
    }

    #[test]
    fn validate_finds_lies() {
        let good = Layout::compute(&LayoutSpec {
            align: 1 << 20,
            gap: 0,
            table: None,
            partitions: vec![
                part(1, 1 << 20, PartitionKind::Linux),
                part(2, 1 << 20, PartitionKind::Swap),
            ],
        })
        .unwrap();
        let spoil = |f: fn(&mut Layout)| {
            let mut bad = good.clone();
            f(&mut bad);
            bad.validate().unwrap_err()
        };
        spoil(|l| l.len = 1 << 20);
        spoil(|l| l.partitions[0].start = 0);
        spoil(|l| l.partitions[1].start = 1 << 20);
        spoil(|l| l.partitions[1].len = u64::MAX);
        spoil(|l| l.partitions[1].number = 9);
    }
}
