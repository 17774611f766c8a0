//! Which blocks and sectors of the disk a VHDX stores, and where.
//!
//! Source: [MS-VHDX] 2.4 "Blocks", 2.5 "BAT".

use super::header::{Range, corrupt, u64_at};
use super::metadata::Metadata;
use super::patched::Patched;
use crate::image::layer::{Layer, Place, Put, damaged};
use crate::image::stored_file::StoredFile;
use crate::{Error, Result};
use std::io;

/// Sectors that a bitmap block describes, and its length in bytes.
const BITMAP_SECTORS: u64 = 8 << 20;
const BITMAP_LEN: u64 = 1 << 20;
/// States of a payload block. 0 to 3 are not stored: not present, undefined, zero, unmapped.
const NOT_PRESENT: u64 = 0;
const FULLY_PRESENT: u64 = 6;
const PARTIALLY_PRESENT: u64 = 7;
/// How much of the table is compared with the file's length when an image is opened, in bytes, and how
/// much is read at once.
const CHECKED: u64 = 16 << 20;
const PIECE: u64 = 64 << 10;

/// A VHDX file. Offsets and lengths in bytes.
#[derive(Debug)]
pub(super) struct VhdxLayer {
    tables: Patched,
    bat: Range,
    len: u64,
    block_size: u64,
    sector: u64,
    /// Payload blocks whose sectors one bitmap block describes.
    chunk: u64,
    differencing: bool,
}

impl VhdxLayer {
    /// The file whose block allocation table is at `bat`.
    ///
    /// # Errors
    /// Errors of the file; `Corrupt` if it is too short for the table or for its blocks.
    pub(super) fn open(tables: Patched, bat: Range, metadata: &Metadata) -> Result<Self> {
        let layer = Self {
            tables,
            bat,
            len: metadata.len,
            block_size: metadata.block_size,
            sector: metadata.logical_sector,
            chunk: BITMAP_SECTORS * metadata.logical_sector / metadata.block_size,
            differencing: metadata.parent.is_some(),
        };
        let blocks = layer.len.div_ceil(layer.block_size);
        let last = match layer.differencing {
            false => layer.index(blocks.saturating_sub(1)),
            true => blocks.div_ceil(layer.chunk) * (layer.chunk + 1) - 1,
        };
        if (last + 1) * 8 > bat.len {
            return Err(corrupt("its block allocation table is too small for the disk's length"));
        }
        layer.check_blocks(blocks)?;
        Ok(layer)
    }

    /// Refuse a file that was cut short.
    fn check_blocks(&self, blocks: u64) -> Result<()> {
        let file_len = self.tables.file().len();
        let failed = |e| Error::io("cannot read its block allocation table", e);
        let mut first = 0;
        while first < blocks.min(CHECKED / 8) {
            let n = (blocks - first).min(PIECE / 8);
            for (number, entry) in (first..).zip(self.entries(first, n).map_err(failed)?) {
                let (state, at) = split(entry);
                let len = self.block_size.min(self.len - number * self.block_size);
                if matches!(state, FULLY_PRESENT | PARTIALLY_PRESENT)
                    && at.checked_add(len).is_none_or(|end| end > file_len)
                {
                    return Err(corrupt(format!(
                        "the file ends at {file_len} bytes, and block {number} is at {at}; it was cut \
                         short"
                    )));
                }
            }
            first += n;
        }
        Ok(())
    }

    /// The table's index of payload block `number`: an entry for a bitmap follows those of a chunk.
    fn index(&self, number: u64) -> u64 {
        number + number / self.chunk
    }

    /// The entries of `n` payload blocks from `first` on.
    fn entries(&self, first: u64, n: u64) -> io::Result<Vec<u64>> {
        let (start, end) = (self.index(first), self.index(first + n - 1) + 1);
        let mut bytes = vec![0; (end - start) as usize * 8];
        self.tables.read(&mut bytes, self.bat.start + start * 8)?;
        let entry = |number| u64_at(&bytes, (self.index(number) - start) as usize * 8);
        Ok((first..first + n).map(entry).collect())
    }

    /// Split the part of block `number`, stored at `block_at`, from `start` to `end` by its bitmap.
    fn locate_sectors(
        &self,
        (number, block_at): (u64, u64),
        (start, end): (u64, u64),
        put: &mut Put<'_>,
    ) -> io::Result<()> {
        let chunk = number / self.chunk;
        let mut entry = [0; 8];
        let index = chunk * (self.chunk + 1) + self.chunk;
        self.tables.read(&mut entry, self.bat.start + index * 8)?;
        let (state, bitmap) = split(u64::from_le_bytes(entry));
        if state != FULLY_PRESENT {
            return Err(damaged(format!("block {number} is stored in part, without a bitmap")));
        }
        // Sectors are counted from the first of the chunk.
        let chunk_start = chunk * self.chunk * self.block_size;
        let (first, last) =
            ((start - chunk_start) / self.sector, (end - chunk_start).div_ceil(self.sector));
        let skip = first / 8;
        let mut bits = vec![0; (last.div_ceil(8) - skip) as usize];
        if skip + bits.len() as u64 > BITMAP_LEN {
            return Err(damaged("a bitmap is too short"));
        }
        self.tables.read(&mut bits, bitmap + skip)?;
        let has = |sector: u64| bits[(sector / 8 - skip) as usize] >> (sector % 8) & 1 != 0;
        let mut sector = first;
        while sector < last {
            let (from, here) = ((chunk_start + sector * self.sector).max(start), has(sector));
            while sector < last && has(sector) == here {
                sector += 1;
            }
            let to = (chunk_start + sector * self.sector).min(end);
            let offset = block_at + (from - number * self.block_size);
            put(from, to, if here { Place::Stored { file: 0, offset } } else { Place::Absent });
        }
        Ok(())
    }
}

/// The state of a table's entry, and the offset in the file.
fn split(entry: u64) -> (u64, u64) {
    (entry & 7, entry >> 20 << 20)
}

impl Layer for VhdxLayer {
    fn len(&self) -> u64 {
        self.len
    }

    fn locate(&self, start: u64, end: u64, put: &mut Put<'_>) -> io::Result<()> {
        let (first, last) = (start / self.block_size, end.div_ceil(self.block_size));
        for (number, entry) in (first..).zip(self.entries(first, last - first)?) {
            let block = number * self.block_size;
            let (from, to) = (start.max(block), end.min(block + self.block_size));
            let (state, at) = split(entry);
            if matches!(state, FULLY_PRESENT | PARTIALLY_PRESENT) {
                let stop = at.checked_add(to - block);
                if stop.is_none_or(|stop| stop > self.tables.file().len()) {
                    return Err(damaged(format!("block {number} lies past the end of the file")));
                }
                // The log is for tables only.
                if self.tables.is_changed(at + (from - block), at + (to - block)) {
                    return Err(damaged(format!("the log changes data, in block {number}")));
                }
            }
            match state {
                NOT_PRESENT => put(from, to, Place::Absent),
                1..=3 => put(from, to, Place::Zeros),
                FULLY_PRESENT => {
                    put(from, to, Place::Stored { file: 0, offset: at + (from - block) });
                }
                PARTIALLY_PRESENT if self.differencing => {
                    self.locate_sectors((number, at), (from, to), put)?;
                }
                other => return Err(damaged(format!("block {number} has the state {other}"))),
            }
        }
        Ok(())
    }

    fn files(&self) -> &[StoredFile] {
        self.tables.files()
    }
}
