//! One file of a VHD chain: which sectors of the disk it stores, and where.

use super::header::{FOOTER_LEN, Footer, HEADER_LEN, Header, Kind, Metadata, SECTOR};
use crate::image::driver::Opening;
use crate::image::mapping::Mapping;
use crate::{Error, ErrorKind, Result};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A block allocation table entry for a block that is not stored.
const UNUSED: u32 = u32::MAX;

/// A file of a chain.
pub(super) struct Layer {
    file: File,
    mapping: Option<Mapping>,
    path: PathBuf,
    /// Length of the file in bytes.
    file_len: u64,
    blocks: Blocks,
}

/// How the disk's bytes are laid out in the file.
enum Blocks {
    /// Byte N at offset N, for this many bytes.
    Plain(u64),
    /// In blocks, each preceded by a bitmap: block N begins at sector `table[N]`.
    Table { table: Vec<u32>, block_size: u64 },
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Layer {
    /// A raw image at the end of a chain.
    pub(super) fn raw(opening: Opening) -> Self {
        let len = opening.len;
        Self::new(opening, Blocks::Plain(len))
    }

    /// The VHD in `opening`, and its metadata.
    ///
    /// # Errors
    /// Errors of the file; `Corrupt` and `Unsupported` for its metadata.
    pub(super) fn open(opening: Opening) -> Result<(Self, Metadata)> {
        let footer = read_footer(&opening)?;
        if footer.kind == Kind::Fixed {
            if footer.size > opening.len - FOOTER_LEN as u64 {
                return Err(corrupt(format!(
                    "the file has {} bytes, too few for its disk of {}",
                    opening.len, footer.size
                )));
            }
            let layer = Self::new(opening, Blocks::Plain(footer.size));
            return Ok((layer, Metadata { footer, header: None }));
        }
        let mut bytes = [0; HEADER_LEN];
        read(&opening.file, &mut bytes, footer.header_offset, "its dynamic disk header")?;
        let header = Header::parse(&bytes, footer.size)?;
        let block_size = header.block_size;
        let blocks = footer.size.div_ceil(block_size);
        // `Header::parse` limits the number of blocks.
        let mut bytes = vec![0; blocks as usize * 4];
        read(&opening.file, &mut bytes, header.table_offset, "its block allocation table")?;
        let entries = bytes.chunks_exact(4).map(|e| u32::from_be_bytes([e[0], e[1], e[2], e[3]]));
        let table: Vec<u32> = entries.collect();
        let stored = bitmap_len(block_size) + block_size;
        let outside =
            |entry: &u32| *entry != UNUSED && u64::from(*entry) * SECTOR + stored > opening.len;
        // The last block of a disk may be cut short at the end of the file.
        let end = table.len() - usize::from(footer.size % block_size != 0);
        if let Some(block) = table[..end].iter().position(outside) {
            return Err(corrupt(format!("block {block} lies past the end of the file")));
        }
        let layer = Self::new(opening, Blocks::Table { table, block_size });
        Ok((layer, Metadata { footer, header: Some(header) }))
    }

    fn new(Opening { file, len, path }: Opening, blocks: Blocks) -> Self {
        // Some filesystems cannot map files; reads then go through a buffer.
        let mapping = Mapping::new(&file, len).ok();
        Self { file, mapping, path, file_len: len, blocks }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn mapping(&self) -> Option<&Mapping> {
        self.mapping.as_ref()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file in bytes.
    pub(super) fn len(&self) -> u64 {
        self.file_len
    }

    /// Bytes that the file occupies.
    pub(super) fn allocated(&self) -> u64 {
        match self.file.metadata() {
            Ok(meta) if meta.is_file() => meta.blocks() * 512,
            _ => self.file_len,
        }
    }

    /// How many of the disk's bytes are stored in order at their own offsets; `None` if the file
    /// has blocks.
    pub(super) fn plain(&self) -> Option<u64> {
        match self.blocks {
            Blocks::Plain(len) => Some(len),
            Blocks::Table { .. } => None,
        }
    }

    /// Length of a block in bytes, if the file has blocks.
    pub(super) fn block_size(&self) -> Option<u64> {
        match self.blocks {
            Blocks::Plain(_) => None,
            Blocks::Table { block_size, .. } => Some(block_size),
        }
    }

    /// Where block `number` of a layer with blocks is stored: the offset of its bitmap and that of
    /// its data, in bytes.
    pub(super) fn block(&self, number: u64) -> Option<(u64, u64)> {
        let Blocks::Table { table, block_size } = &self.blocks else { return None };
        let entry = *table.get(usize::try_from(number).ok()?)?;
        let bitmap = u64::from(entry) * SECTOR;
        (entry != UNUSED).then(|| (bitmap, bitmap + bitmap_len(*block_size)))
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

fn read(file: &File, buf: &mut [u8], offset: u64, what: &str) -> Result<()> {
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
