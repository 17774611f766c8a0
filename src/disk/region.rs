//! The region table: where each byte of the disk comes from.

use super::overlay::Base;
use crate::bytes::{Extent, Extents, ReadAt, SharedBytes};
use crate::image::{Image, MappedSlice};
use crate::{Error, ErrorKind, Result};
use std::fmt;
use std::io;
use std::sync::Arc;

/// Where a region's bytes come from.
#[derive(Clone)]
pub enum Source {
    /// Bytes generated at planning; as long as the region.
    Bytes(Arc<[u8]>),
    /// Only zeros.
    Zeros,
    /// The image from `offset` on, in bytes.
    Image {
        /// The backing image.
        image: Arc<dyn Image>,
        /// First byte of the image that the region shows.
        offset: u64,
    },
    /// A file from its beginning: a kernel or initrd inside the guest.
    File(Arc<SharedBytes>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Zeros => f.write_str("Zeros"),
            Self::Image { image, offset } => write!(f, "Image({image:?} from {offset})"),
            Self::File(file) => write!(f, "File({})", file.len()),
        }
    }
}

/// The role of a region on the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RegionKind {
    /// Sector 0: loader code and partition table.
    Mbr,
    /// A GPT's header and entries, at either end of the disk.
    Table,
    /// Loader code after the MBR.
    Loader,
    /// The loader's parameter block.
    Parameters,
    /// The kernel's command line.
    CommandLine,
    /// The kernel.
    Kernel,
    /// An initrd, or one of several that the kernel sees as one.
    Initrd,
    /// The content of partition N.
    Partition(u32),
    /// The header of the swap area in partition N.
    SwapHeader(u32),
    /// An image that is a whole disk.
    Image,
    /// Unused space.
    Gap,
}

impl RegionKind {
    /// The name used in `map --json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mbr => "mbr",
            Self::Table => "gpt",
            Self::Loader => "loader",
            Self::Parameters => "parameters",
            Self::CommandLine => "cmdline",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Partition(_) => "partition",
            Self::SwapHeader(_) => "swap-header",
            Self::Image => "image",
            Self::Gap => "gap",
        }
    }
}

/// A run of bytes of the disk with one source.
#[derive(Clone, Debug)]
pub struct Region {
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// The role of the region.
    pub kind: RegionKind,
    /// Where its bytes come from, as text for the user.
    pub origin: String,
    /// Where its bytes come from.
    pub source: Source,
}

impl Region {
    /// First byte after the region.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Fill `buf` from `offset` within the region; the caller has checked the range.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.source {
            Source::Bytes(bytes) => {
                // `RegionTable::new` checked that the bytes are as long as the region.
                let from = offset as usize;
                buf.copy_from_slice(&bytes[from..from + buf.len()]);
                Ok(())
            }
            Source::Zeros => {
                buf.fill(0);
                Ok(())
            }
            Source::Image { image, offset: base } => image.read_at(buf, base + offset),
            Source::File(file) => file.read_at(buf, offset),
        }
    }

    /// Whether data is stored at `at` (a disk offset within the region), and where that run ends.
    fn extent_at(&self, at: u64) -> io::Result<Extent> {
        match &self.source {
            Source::Bytes(_) | Source::File(_) => Ok(Extent { data: true, end: self.end() }),
            Source::Zeros => Ok(Extent { data: false, end: self.end() }),
            Source::Image { image, offset } => {
                let found = image.extent_at(offset + (at - self.start))?;
                let end = (self.start + (found.end - offset)).min(self.end());
                Ok(Extent { data: found.data, end })
            }
        }
    }
}

/// Regions of a disk: sorted, without gaps or overlaps, from byte 0 to its end.
#[derive(Debug)]
pub struct RegionTable {
    regions: Vec<Region>,
}

impl RegionTable {
    /// Check `regions` and build the table; empty regions are dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when they leave a gap, overlap, or a source is too short.
    pub fn new(mut regions: Vec<Region>) -> Result<Self> {
        regions.retain(|r| r.len > 0);
        let mut end = 0;
        for r in &regions {
            let long_enough = match &r.source {
                Source::Bytes(bytes) => bytes.len() as u64 == r.len,
                Source::Image { image, offset } => {
                    offset.checked_add(r.len).is_some_and(|n| n <= image.len())
                }
                Source::File(file) => r.len <= file.len(),
                Source::Zeros => true,
            };
            if r.start != end || !long_enough {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("region `{}` at byte {} does not fit its place", r.origin, r.start),
                ));
            }
            end = r.end();
        }
        Ok(Self { regions })
    }

    /// The regions in disk order.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The regions starting with the one that contains byte `offset`.
    fn regions_from(&self, offset: u64) -> &[Region] {
        &self.regions[self.regions.partition_point(|r| r.end() <= offset)..]
    }

    /// The region that contains byte `offset`.
    pub fn region_at(&self, offset: u64) -> Option<&Region> {
        self.regions_from(offset).first()
    }

    /// The range as mapped memory, if it lies within one image.
    pub fn map(&self, offset: u64, len: usize) -> Option<MappedSlice> {
        let region = self.regions_from(offset).first()?;
        match &region.source {
            Source::Image { image, offset: base } if offset + len as u64 <= region.end() => {
                image.map(base + (offset - region.start), len)
            }
            _ => None,
        }
    }

    /// Stored bytes of the range. All of an image's storage is counted, because finding out where
    /// in the image it lies takes too long.
    pub fn allocated_within(&self, offset: u64, len: u64) -> u64 {
        let end = offset.saturating_add(len);
        let regions = self.regions_from(offset).iter().take_while(|r| r.start < end);
        let stored = regions.map(|r| {
            let shared = r.end().min(end) - r.start.max(offset);
            match &r.source {
                Source::Zeros => 0,
                Source::Bytes(_) | Source::File(_) => shared,
                Source::Image { image, .. } => image.allocated().min(shared),
            }
        });
        stored.sum()
    }
}

impl Extents for RegionTable {
    fn extent_at(&self, offset: u64) -> io::Result<Extent> {
        match self.regions_from(offset).first() {
            Some(region) => region.extent_at(offset),
            None => Ok(Extent { data: false, end: u64::MAX }),
        }
    }
}

impl ReadAt for RegionTable {
    fn read_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        for region in self.regions_from(offset) {
            if buf.is_empty() {
                return Ok(());
            }
            let within = offset - region.start;
            let n = (region.len - within).min(buf.len() as u64) as usize;
            let (now, later) = buf.split_at_mut(n);
            region.read_at(now, within)?;
            buf = later;
            offset += n as u64;
        }
        if buf.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn len(&self) -> u64 {
        self.regions.last().map_or(0, Region::end)
    }
}

impl Base for RegionTable {
    fn is_zero(&self, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len);
        let mut at = offset;
        while at < end {
            match self.extent_at(at) {
                Ok(Extent { data: false, end: next }) if next > at => at = next,
                _ => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(start: u64, len: u64, source: Source) -> Region {
        Region { start, len, kind: RegionKind::Gap, origin: "test".into(), source }
    }

    fn bytes(b: &[u8]) -> Source {
        Source::Bytes(b.into())
    }

    #[test]
    fn reads_across_regions() {
        let table = RegionTable::new(vec![
            region(0, 2, bytes(b"ab")),
            region(2, 0, Source::Zeros),
            region(2, 3, Source::Zeros),
            region(5, 2, bytes(b"cd")),
        ])
        .unwrap();
        assert_eq!(table.len(), 7);
        let mut buf = [9; 7];
        table.read_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"ab\0\0\0cd");
        let mut buf = [9; 2];
        table.read_at(&mut buf, 4).unwrap();
        assert_eq!(&buf, b"\0c");
        assert!(table.read_at(&mut buf, 6).is_err());
        assert!(table.is_zero(2, 3) && !table.is_zero(1, 2) && !table.is_zero(4, 2));
    }

    #[test]
    fn refuses_gaps_overlaps_and_short_sources() {
        for regions in [
            vec![region(1, 2, Source::Zeros)],
            vec![region(0, 2, Source::Zeros), region(3, 1, Source::Zeros)],
            vec![region(0, 2, Source::Zeros), region(1, 1, Source::Zeros)],
            vec![region(0, 3, bytes(b"ab"))],
        ] {
            assert!(RegionTable::new(regions).is_err());
        }
    }
}
