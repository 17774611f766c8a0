//! One file of a VHD chain: which sectors of the disk it stores, and where.

use super::header::{FOOTER_LEN, Footer, HEADER_LEN, Header, Kind, Metadata, SECTOR};
use crate::image::content::Content;
use crate::image::layer::{Layer, Place, Put};
use crate::image::opening::Opening;
use crate::image::stored_file::StoredFile;
use crate::{Error, ErrorKind, Result};
use std::fmt;
use std::io;

/// A block allocation table entry for a block that is not stored.
const UNUSED: u32 = u32::MAX;

/// A file of a chain.
pub(super) struct VhdLayer {
    file: [StoredFile; 1],
    /// Length of the disk in bytes.
    len: u64,
    blocks: Blocks,
}

/// How the disk's bytes are laid out in the file.
enum Blocks {
    /// Byte N at offset N.
    Plain,
    /// In blocks, each preceded by a bitmap: block N begins at sector `table[N]`.
    Table { table: Vec<u32>, block_size: u64 },
}

impl fmt::Debug for VhdLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VhdLayer").field("file", &self.file).finish_non_exhaustive()
    }
}

impl VhdLayer {
    /// The VHD in `opening`, and its metadata.
    ///
    /// # Errors
    /// Errors of the file; `Corrupt` and `Unsupported` for its metadata.
    pub(super) fn open(opening: Opening) -> Result<(Self, Metadata)> {
        let footer = read_footer(&opening)?;
        let len = footer.size;
        if footer.kind == Kind::Fixed {
            if len > opening.len - FOOTER_LEN as u64 {
                return Err(corrupt(format!(
                    "the file has {} bytes, too few for its disk of {len}",
                    opening.len
                )));
            }
            let layer = Self { file: [opening.into()], len, blocks: Blocks::Plain };
            return Ok((layer, Metadata { footer, header: None }));
        }
        let mut bytes = [0; HEADER_LEN];
        read(&opening.file, &mut bytes, footer.header_offset, "its dynamic disk header")?;
        let header = Header::parse(&bytes, len)?;
        let block_size = header.block_size;
        let blocks = len.div_ceil(block_size);
        // `Header::parse` limits the number of blocks.
        let mut bytes = vec![0; blocks as usize * 4];
        read(&opening.file, &mut bytes, header.table_offset, "its block allocation table")?;
        let entries = bytes.chunks_exact(4).map(|e| u32::from_be_bytes([e[0], e[1], e[2], e[3]]));
        let table: Vec<u32> = entries.collect();
        let stored = bitmap_len(block_size) + block_size;
        let outside =
            |entry: &u32| *entry != UNUSED && u64::from(*entry) * SECTOR + stored > opening.len;
        // The last block of a disk may be cut short at the end of the file.
        let end = table.len() - usize::from(len % block_size != 0);
        if let Some(block) = table[..end].iter().position(outside) {
            return Err(corrupt(format!("block {block} lies past the end of the file")));
        }
        let layer =
            Self { file: [opening.into()], len, blocks: Blocks::Table { table, block_size } };
        Ok((layer, Metadata { footer, header: Some(header) }))
    }

    /// The file that stores the layer.
    pub(super) fn file(&self) -> &StoredFile {
        &self.file[0]
    }

    /// Split the part of block `number` from `at` to `end`, offsets of the disk, by its bitmap.
    fn locate_in_block(
        &self,
        (number, block_size, entry): (u64, u64, u32),
        (at, end): (u64, u64),
        put: &mut Put<'_>,
    ) -> io::Result<()> {
        let block_start = number * block_size;
        let bitmap = u64::from(entry) * SECTOR;
        let data = bitmap + bitmap_len(block_size);
        let first = (at - block_start) / SECTOR;
        let last = (end - block_start).div_ceil(SECTOR);
        let skip = first / 8;
        let mut bits = vec![0; (last.div_ceil(8) - skip) as usize];
        self.file().read(&mut bits, bitmap + skip)?;
        let has = |sector: u64| {
            let bit = sector - skip * 8;
            bits[(bit / 8) as usize] & (0x80 >> (bit % 8)) != 0
        };
        let mut sector = first;
        while sector < last {
            let here = has(sector);
            let from = (block_start + sector * SECTOR).max(at);
            while sector < last && has(sector) == here {
                sector += 1;
            }
            let place = match here {
                true => Place::Stored { file: 0, offset: data + (from - block_start) },
                false => Place::Absent,
            };
            put(from, (block_start + sector * SECTOR).min(end), place);
        }
        Ok(())
    }
}

impl Layer for VhdLayer {
    fn len(&self) -> u64 {
        self.len
    }

    fn locate(&self, start: u64, end: u64, put: &mut Put<'_>) -> io::Result<()> {
        let Blocks::Table { table, block_size } = &self.blocks else {
            put(start, end, Place::Stored { file: 0, offset: start });
            return Ok(());
        };
        let mut at = start;
        while at < end {
            let number = at / block_size;
            let block_end = ((number + 1) * block_size).min(end);
            // The table has an entry for each block of the disk.
            match table[number as usize] {
                UNUSED => put(at, block_end, Place::Absent),
                entry => {
                    self.locate_in_block((number, *block_size, entry), (at, block_end), put)?
                }
            }
            at = block_end;
        }
        Ok(())
    }

    fn files(&self) -> &[StoredFile] {
        &self.file
    }
}

/// Length of the bitmap before a block, in bytes: a bit for each sector, in whole sectors.
pub(super) fn bitmap_len(block_size: u64) -> u64 {
    (block_size / SECTOR / 8).next_multiple_of(SECTOR)
}

/// The footer at the end, or, if it is damaged, its copy at the beginning: an interrupted writer
/// leaves at least one of the two intact.
fn read_footer(opening: &Opening) -> Result<Footer> {
    let at = |offset| {
        let mut bytes = [0; FOOTER_LEN];
        read(&opening.file, &mut bytes, offset, "its footer")?;
        Footer::parse(&bytes)
    };
    let Some(end) = opening.len.checked_sub(FOOTER_LEN as u64) else {
        return Err(corrupt("it is too short for a VHD footer"));
    };
    let last = at(end);
    match (at(0), last) {
        // A fixed disk has no copy: its first bytes belong to the guest.
        (_, Ok(footer)) if footer.kind == Kind::Fixed => Ok(footer),
        (Ok(copy), Ok(footer)) if copy != footer => {
            Err(corrupt("its footer and the copy of it at the beginning contradict each other"))
        }
        (_, Ok(footer)) => Ok(footer),
        (Ok(copy), Err(_)) if copy.kind != Kind::Fixed => Ok(copy),
        (_, Err(e)) => Err(e),
    }
}

fn read(file: &Content, buf: &mut [u8], offset: u64, what: &str) -> Result<()> {
    file.read_exact_at(buf, offset).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => corrupt(format!("the file ends before {what}")),
        // An offset that no file can have.
        io::ErrorKind::InvalidInput => corrupt(format!("{what} has an impossible place")),
        _ => Error::io(format!("cannot read {what}"), e),
    })
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}
