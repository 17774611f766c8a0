//! An exported file: a range of a disk, or a logical volume.

use super::volume::ExportedVolume;
use crate::bytes::{Extent, Extents, ReadAt};
use crate::disk::{Chunk, Disk};
use std::io;
use std::sync::Arc;

/// Offset and length in bytes.
pub type Range = (u64, u64);

/// Data and holes are reported in blocks of this many bytes. QEMU assumes this alignment for
/// O_DIRECT if the filesystem does not report one (`raw_probe_alignment()` in its
/// block/file-posix.c).
const BLOCK: u64 = 4096;

/// An exported file. Offsets and lengths in bytes.
#[derive(Clone, Debug)]
pub struct ExportedFile {
    /// Its name.
    pub name: String,
    /// Its length.
    pub len: u64,
    bytes: FileBytes,
}

/// The bytes that a file shows.
#[derive(Clone, Debug)]
enum FileBytes {
    /// Those of a disk from `start` on.
    Range { disk: Arc<Disk>, start: u64 },
    /// Those of a logical volume.
    Volume(Arc<ExportedVolume>),
}

impl ExportedFile {
    /// A file that shows `len` bytes of `disk` from `start` on.
    pub fn of_disk(name: String, disk: Arc<Disk>, start: u64, len: u64) -> Self {
        Self { name, len, bytes: FileBytes::Range { disk, start } }
    }

    /// A file that shows a logical volume.
    pub fn of_volume(name: String, volume: ExportedVolume) -> Self {
        Self { name, len: volume.len(), bytes: FileBytes::Volume(Arc::new(volume)) }
    }

    /// Whether it shows the whole disk, rather than one of its partitions.
    pub fn is_whole(&self) -> bool {
        self.whole().is_some()
    }

    /// The disk, if the file shows all of it.
    pub fn whole(&self) -> Option<&Arc<Disk>> {
        match &self.bytes {
            FileBytes::Range { disk, start: 0 } if self.len == disk.len() => Some(disk),
            _ => None,
        }
    }

    /// The disk of which the file shows one range, and the start of that range.
    pub fn range(&self) -> Option<(&Arc<Disk>, u64)> {
        match &self.bytes {
            FileBytes::Range { disk, start } => Some((disk, *start)),
            FileBytes::Volume(_) => None,
        }
    }

    /// Whether both show the same bytes.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (&self.bytes, &other.bytes) {
            (FileBytes::Range { disk: a, start: x }, FileBytes::Range { disk: b, start: y }) => {
                Arc::ptr_eq(a, b) && x == y && self.len == other.len
            }
            (FileBytes::Volume(a), FileBytes::Volume(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Approximate storage that the file uses, in bytes. It is less than the length if the file has
    /// holes: only then do copy programs search for holes.
    pub fn allocated(&self) -> u64 {
        match &self.bytes {
            FileBytes::Range { disk, start } => disk.allocated_within(*start, self.len),
            FileBytes::Volume(volume) => volume.allocated(),
        }
    }

    /// Whether writes to it are refused.
    pub fn is_read_only(&self) -> bool {
        match &self.bytes {
            FileBytes::Range { disk, .. } => disk.is_read_only(),
            FileBytes::Volume(volume) => volume.is_read_only(),
        }
    }

    /// How many of `len` bytes at `offset` lie within the file.
    pub fn clip(&self, offset: u64, len: u64) -> u64 {
        len.min(self.len.saturating_sub(offset))
    }

    /// The bytes at `offset`, at most up to the end of the file. If they cannot be borrowed in
    /// place, they are read into `scratch`.
    ///
    /// # Errors
    /// Errors of the image and the overlay.
    pub fn read<'a>(
        &self,
        offset: u64,
        len: u64,
        scratch: &'a mut Vec<u8>,
    ) -> io::Result<Chunk<'a>> {
        // A request of any protocol fits in memory.
        let len = self.clip(offset, len) as usize;
        match &self.bytes {
            FileBytes::Range { disk, start } => disk.read(start + offset, len, scratch),
            FileBytes::Volume(volume) => volume.read(offset, len, scratch),
        }
    }

    /// Fill `buf` from `offset`; never a short read.
    ///
    /// # Errors
    /// Errors of the image and the overlay; `UnexpectedEof` past the end.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.clip(offset, buf.len() as u64) < buf.len() as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &self.bytes {
            FileBytes::Range { disk, start } => disk.read_at(buf, start + offset),
            FileBytes::Volume(volume) => volume.read_at(buf, offset),
        }
    }

    /// Write `data`, which must fit, at `offset`.
    ///
    /// # Errors
    /// Errors of the overlay; `EROFS` for what is read-only.
    pub fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        match &self.bytes {
            FileBytes::Range { disk, start } => disk.write_at(data, start + offset),
            FileBytes::Volume(volume) => volume.write_at(data, offset),
        }
    }

    /// Make `len` bytes at `offset`, which must be in the file, read as zeros.
    ///
    /// # Errors
    /// As [`ExportedFile::write_at`].
    pub fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        match &self.bytes {
            FileBytes::Range { disk, start } => disk.zero(start + offset, len),
            FileBytes::Volume(volume) => volume.zero(offset, len),
        }
    }

    /// Bring all acknowledged writes to its disks to stable storage.
    ///
    /// # Errors
    /// Errors of the overlays.
    pub fn flush(&self) -> io::Result<()> {
        match &self.bytes {
            FileBytes::Range { disk, .. } => disk.flush(),
            FileBytes::Volume(volume) => volume.flush(),
        }
    }

    /// The ranges of disks (start and end) that `len` bytes at `offset` occupy, and perhaps some
    /// more.
    pub(super) fn places(&self, offset: u64, len: u64) -> Vec<(&Arc<Disk>, u64, u64)> {
        match &self.bytes {
            FileBytes::Range { disk, start } => vec![(disk, start + offset, start + offset + len)],
            FileBytes::Volume(volume) => volume.places(offset, len),
        }
    }

    /// The ranges of the file (offset and length) that show the bytes of `disk` from `start` to
    /// `end`, and perhaps some more.
    pub(super) fn shown(&self, disk: &Arc<Disk>, start: u64, end: u64) -> Vec<Range> {
        match &self.bytes {
            FileBytes::Range { disk: own, start: first } => {
                let (from, to) = (start.max(*first), end.min(first + self.len));
                let shown = Arc::ptr_eq(own, disk) && from < to;
                if shown { vec![(from - first, to - from)] } else { Vec::new() }
            }
            FileBytes::Volume(volume) => volume.shown(disk, start, end),
        }
    }

    /// The first byte of data (or of a hole) at or after `offset`; `None` if there is none or
    /// `offset` is past the end. The end of a file counts as a hole. See lseek(2).
    ///
    /// # Errors
    /// Errors of the image and the overlay.
    pub fn seek(&self, offset: u64, data: bool) -> io::Result<Option<u64>> {
        match &self.bytes {
            FileBytes::Range { disk, start } => {
                self.seek_in(offset, data, |at| on_file(disk.extent_at(start + at)?, *start))
            }
            FileBytes::Volume(volume) => self.seek_in(offset, data, |at| volume.extent_at(at)),
        }
    }

    /// The data or the hole at `offset`, up to `end` at most, both within the file. A block with any
    /// data is data, as for [`ExportedFile::seek`].
    ///
    /// # Errors
    /// Errors of the image and the overlay.
    pub fn extent_within(&self, offset: u64, end: u64) -> io::Result<Extent> {
        let limit = end.checked_next_multiple_of(BLOCK).map_or(self.len, |at| at.min(self.len));
        let next = |data| match &self.bytes {
            FileBytes::Range { disk, start } => self.seek_until((offset, limit), data, |at| {
                on_file(disk.extent_within(start + at, start + limit)?, *start)
            }),
            FileBytes::Volume(volume) => {
                self.seek_until((offset, limit), data, |at| volume.extent_at(at))
            }
        };
        let hole = next(false)?.unwrap_or(limit);
        if hole > offset {
            return Ok(Extent { data: true, end: hole.min(end) });
        }
        let data = next(true)?.unwrap_or(limit).min(end);
        if data > offset {
            return Ok(Extent { data: false, end: data });
        }
        // The hole at `offset` was written to between the two questions.
        let block_end = (offset - offset % BLOCK).saturating_add(BLOCK);
        Ok(Extent { data: true, end: block_end.min(end) })
    }

    /// The same as [`ExportedFile::seek`], with the file's extents from `extent_at`.
    ///
    /// # Errors
    /// Errors of `extent_at`.
    pub fn seek_in(
        &self,
        offset: u64,
        data: bool,
        extent_at: impl Fn(u64) -> io::Result<Extent>,
    ) -> io::Result<Option<u64>> {
        if offset >= self.len {
            return Ok(None);
        }
        let found = self.seek_until((offset, self.len), data, extent_at)?;
        Ok(found.or((!data).then_some(self.len)))
    }

    /// The first byte of data, or of a hole, from `offset` on and before `limit`, which must be a
    /// multiple of [`BLOCK`] or the end of the file.
    fn seek_until(
        &self,
        (offset, limit): Range,
        data: bool,
        extent_at: impl Fn(u64) -> io::Result<Extent>,
    ) -> io::Result<Option<u64>> {
        // In whole blocks, as on other filesystems: a block with any data is data. QEMU aborts if a
        // file opened with O_DIRECT has a hole that begins within a block.
        let mut at = offset - offset % BLOCK;
        while at < limit {
            let run = extent_at(at)?;
            // An extent may continue after the end of this file, in the next partition.
            let end = run.end.min(self.len);
            // The last block may be shorter than the others.
            let whole = if end == self.len { end } else { end - end % BLOCK };
            at = match (run.data, data) {
                (true, true) => return Ok(Some((at - at % BLOCK).max(offset))),
                (true, false) => end.next_multiple_of(BLOCK),
                (false, false) if whole > at => return Ok(Some(at.max(offset))),
                (false, false) => at + BLOCK,
                (false, true) => end,
            };
        }
        Ok(None)
    }

    /// The range that `fallocate` with `mode` asks to zero: offset and length. See fallocate(2).
    /// `None` means that there is nothing to do, because every byte can already be written.
    ///
    /// # Errors
    /// `EFBIG` for a request to extend the file, `EOPNOTSUPP` for modes that a disk does not
    /// support.
    pub fn range_to_zero(&self, mode: i32, offset: u64, len: u64) -> Result<Option<Range>, i32> {
        let end = offset.checked_add(len).ok_or(libc::EFBIG)?;
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            // The part past the end is ignored, as on other filesystems.
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE => {
                let start = offset.min(self.len);
                Ok(Some((start, end.min(self.len) - start)))
            }
            0 if end <= self.len => Ok(None),
            0 => Err(libc::EFBIG),
            _ => Err(libc::EOPNOTSUPP),
        }
    }
}

/// An extent of a disk, for a file that shows the disk from `start` on.
fn on_file(extent: Extent, start: u64) -> io::Result<Extent> {
    Ok(Extent { end: extent.end.saturating_sub(start), ..extent })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Region, RegionKind, RegionTable, Source};

    /// The file `start..start + len` of a disk of 64 KiB that has data in `data` only.
    fn seek(start: u64, len: u64, data: &[std::ops::Range<u64>], at: u64, for_data: bool) -> u64 {
        let all = 64 << 10;
        let table = RegionTable::new(vec![Region {
            start: 0,
            len: all,
            kind: RegionKind::Gap,
            origin: String::new(),
            source: Source::Zeros,
        }]);
        let disk = Arc::new(Disk::new(table.unwrap(), None));
        let file = ExportedFile::of_disk("x".into(), disk, start, len);
        let extent_at = |at: u64| {
            let at = start + at;
            let hit = data.iter().find(|d| d.end > at);
            let extent = match hit {
                Some(d) if d.contains(&at) => Extent { data: true, end: d.end },
                Some(d) => Extent { data: false, end: d.start },
                None => Extent { data: false, end: all },
            };
            on_file(extent, start)
        };
        file.seek_in(at, for_data, extent_at).unwrap().unwrap_or(u64::MAX)
    }

    #[test]
    fn data_and_holes_come_in_whole_blocks() {
        let none = u64::MAX;
        let data = [0..512, 9000..9001, 16384..20480];
        let whole = |at, for_data| seek(0, 64 << 10, &data, at, for_data);
        for (at, next_data, next_hole) in [
            (0, 0, 4096),
            (511, 511, 4096),
            // After the data, but within its block.
            (600, 600, 4096),
            (4096, 8192, 4096),
            (5000, 8192, 5000),
            (8192, 8192, 12288),
            (9001, 9001, 12288),
            (12288, 16384, 12288),
            (20479, 20479, 20480),
            (20480, none, 20480),
            (65535, none, 65535),
            (65536, none, none),
        ] {
            assert_eq!((whole(at, true), whole(at, false)), (next_data, next_hole), "{at}");
        }
        // Blocks are counted from the start of the file; its end cuts the last one short.
        let part = |at, for_data| seek(512, 8704 - 512, &data, at, for_data);
        assert_eq!((part(0, true), part(0, false)), (none, 0));
        let part = |at, for_data| seek(512, 8600, &data, at, for_data);
        assert_eq!((part(0, true), part(0, false)), (8192, 0));
        assert_eq!((part(8192, true), part(8192, false)), (8192, 8600));
        let data = std::slice::from_ref(&(0..9000));
        assert_eq!(seek(0, 9001, data, 0, false), 9001);
    }
}
