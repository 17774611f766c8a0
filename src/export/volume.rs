//! A logical volume that is exported: its bytes are bytes of one or several disks.

use crate::bytes::{Extent, Extents, ReadAt};
use crate::disk::{Chunk, Disk};
use crate::lvm::{self, VolumeMap};
use std::io;
use std::sync::Arc;

/// A logical volume. Offsets and lengths in bytes.
#[derive(Debug)]
pub struct ExportedVolume {
    map: VolumeMap,
    /// The physical volumes: disk, and first byte there.
    parts: Vec<(Arc<Disk>, u64)>,
    read_only: bool,
}

/// Whether a volume may be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Writes {
    /// If its disks can be.
    Allow,
    /// Never.
    Refuse,
}

impl ExportedVolume {
    /// The volume with this map. `parts` are the physical volumes in the order that the map counts:
    /// disk, first byte and length.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the map does not fit.
    pub fn new(
        map: VolumeMap,
        parts: Vec<(Arc<Disk>, u64, u64)>,
        writes: Writes,
    ) -> crate::Result<Self> {
        let lens: Vec<u64> = parts.iter().map(|(_, _, len)| *len).collect();
        map.check(&lens)?;
        let read_only =
            writes == Writes::Refuse || parts.iter().any(|(disk, ..)| disk.is_read_only());
        let parts = parts.into_iter().map(|(disk, start, _)| (disk, start)).collect();
        Ok(Self { map, parts, read_only })
    }

    pub(super) fn len(&self) -> u64 {
        self.map.len()
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The place on a disk of a range of a physical volume.
    fn on_disk(&self, range: lvm::Range) -> (&Arc<Disk>, u64) {
        // `new` has checked the map.
        let (disk, start) = &self.parts[range.source];
        (disk, start + range.offset)
    }

    /// Calls `each` for the pieces of `len` bytes at `offset`, in order: disk, offset there, and the
    /// range of the piece within the request.
    fn pieces(
        &self,
        (offset, len): (u64, usize),
        mut each: impl FnMut(&Disk, u64, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let end = || io::Error::from(io::ErrorKind::UnexpectedEof);
            let piece = self.map.locate(offset + done as u64).ok_or_else(end)?;
            let n = piece.len.min((len - done) as u64) as usize;
            let (disk, at) = self.on_disk(piece);
            each(disk, at, done..done + n)?;
            done += n;
        }
        Ok(())
    }

    pub(super) fn read<'a>(
        &self,
        offset: u64,
        len: usize,
        scratch: &'a mut Vec<u8>,
    ) -> io::Result<Chunk<'a>> {
        match self.map.locate(offset) {
            Some(piece) if piece.len >= len as u64 => {
                let (disk, at) = self.on_disk(piece);
                return disk.read(at, len, scratch);
            }
            _ => {}
        }
        if scratch.len() < len {
            scratch.resize(len, 0);
        }
        let buf = &mut scratch[..len];
        self.read_at(buf, offset)?;
        Ok(Chunk::Buffer(buf))
    }

    pub(super) fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.pieces((offset, buf.len()), |disk, at, range| disk.read_at(&mut buf[range], at))
    }

    pub(super) fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.check_writable()?;
        self.pieces((offset, data.len()), |disk, at, range| disk.write_at(&data[range], at))
    }

    pub(super) fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_writable()?;
        self.map.exact_ranges(offset, len).into_iter().try_for_each(|range| {
            let (disk, at) = self.on_disk(range);
            disk.zero(at, range.len)
        })
    }

    fn check_writable(&self) -> io::Result<()> {
        let refused = || io::Error::from_raw_os_error(libc::EROFS);
        if self.read_only { Err(refused()) } else { Ok(()) }
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        for (i, (disk, _)) in self.parts.iter().enumerate() {
            if !self.parts[..i].iter().any(|(before, _)| Arc::ptr_eq(before, disk)) {
                disk.flush()?;
            }
        }
        Ok(())
    }

    pub(super) fn allocated(&self) -> u64 {
        let stored = self.map.stored().map(|range| {
            let (disk, at) = self.on_disk(range);
            disk.allocated_within(at, range.len)
        });
        stored.fold(0, u64::saturating_add).min(self.len())
    }

    /// A striped segment counts as data.
    pub(super) fn extent_at(&self, offset: u64) -> io::Result<Extent> {
        if !self.map.is_linear_at(offset) {
            return Ok(Extent { data: true, end: self.map.segment_end(offset) });
        }
        let Some(piece) = self.map.locate(offset) else {
            return Ok(Extent { data: false, end: u64::MAX });
        };
        let (disk, at) = self.on_disk(piece);
        let found = disk.extent_at(at)?;
        Ok(Extent { end: offset + found.end.saturating_sub(at).min(piece.len), ..found })
    }

    pub(super) fn places(&self, offset: u64, len: u64) -> Vec<(&Arc<Disk>, u64, u64)> {
        let place = |range: lvm::Range| {
            let (disk, at) = self.on_disk(range);
            (disk, at, at + range.len)
        };
        self.map.ranges(offset, len).into_iter().map(place).collect()
    }

    pub(super) fn shown(&self, disk: &Arc<Disk>, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        for (source, (own, first)) in self.parts.iter().enumerate() {
            let from = start.max(*first);
            if Arc::ptr_eq(own, disk) && from < end {
                let range = lvm::Range { source, offset: from - first, len: end - from };
                out.extend(self.map.shown(range));
            }
        }
        out
    }
}
