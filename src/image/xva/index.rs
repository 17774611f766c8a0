//! The index of an XVA: where the blocks of each disk are.
//!
//! Source: xapi, `ocaml/xapi/stream_vdi.ml`. A disk is a directory, `Ref:N`, of files that are named
//! by eight digits and hold up to 1 MiB each. Blocks of zeros may be left out, except the first and
//! the last. To keep a connection alive, xapi writes an empty file and repeats the block under the
//! next number: numbers tell how many blocks were left out, not where a block belongs.

use super::disk::Block;
use super::tar::{Entry, Walk};
use crate::image::opening::Opening;
use crate::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Maximum number of disks in an archive; xapi's own limit for a guest is 255.
const MAX_DISKS: usize = 256;
/// Maximum number of blocks of all disks, which limits the index to 192 MiB: 8 TiB of data.
const MAX_BLOCKS: usize = 8 << 20;

/// What was found of a disk.
#[derive(Debug, Default)]
pub(super) struct DiskIndex {
    /// A guest may have a disk more than once.
    pub(super) blocks: Arc<Vec<Block>>,
    /// The end of the last block, on the disk, in bytes.
    pub(super) end: u64,
    /// Number of the last file, and the length of the first block.
    last: Option<u64>,
    first_len: u64,
}

/// The disks of an archive by name.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) disks: BTreeMap<String, DiskIndex>,
    /// Whether the archive is complete.
    pub(super) ended: bool,
}

impl Index {
    /// Walk over `archive`.
    ///
    /// # Errors
    /// Errors of the file; `Corrupt` for a damaged archive; `TooLarge` for one with too many blocks.
    pub(super) fn read(archive: &Opening) -> Result<Self> {
        let (mut index, mut walk) = (Self::default(), Walk::new(archive));
        let mut blocks = 0;
        while let Some(entry) = walk.next()? {
            let Some((disk, number)) = block_of(&entry.name) else { continue };
            if !index.disks.contains_key(disk) && index.disks.len() >= MAX_DISKS {
                let what = format!("it has more than {MAX_DISKS} disks");
                return Err(Error::new(ErrorKind::TooLarge, what));
            }
            blocks += 1;
            if blocks > MAX_BLOCKS {
                let what = format!("its disks have more than {MAX_BLOCKS} blocks");
                return Err(Error::new(ErrorKind::TooLarge, what));
            }
            index.disks.entry(disk.to_owned()).or_default().add(number, &entry)?;
        }
        index.ended = walk.ended();
        Ok(index)
    }
}

impl DiskIndex {
    fn add(&mut self, number: u64, entry: &Entry) -> Result<()> {
        let wrong = |what: &str| {
            let what = format!("{} {what}", entry.name.escape_debug());
            Error::new(ErrorKind::Corrupt, what)
        };
        let skipped = match self.last {
            None => Some(number),
            Some(last) => number.checked_sub(last).and_then(|n| n.checked_sub(1)),
        };
        let skipped = skipped.ok_or_else(|| wrong("does not follow the block before it"))?;
        if self.first_len == 0 {
            self.first_len = entry.len;
        }
        let end = skipped
            .checked_mul(self.first_len)
            .and_then(|gap| Some((self.end.checked_add(gap)?, gap)))
            .and_then(|(start, _)| Some((start, start.checked_add(entry.len)?)))
            .ok_or_else(|| wrong("has an impossible number"))?;
        self.last = Some(number);
        if entry.len > 0 {
            Arc::make_mut(&mut self.blocks).push(Block {
                start: end.0,
                at: entry.at,
                len: entry.len,
            });
        }
        self.end = end.1;
        Ok(())
    }
}

/// The disk and the number of the block in the file called `name`.
pub(super) fn block_of(name: &str) -> Option<(&str, u64)> {
    let (disk, number) = name.split_once('/')?;
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let number = number.parse().ok().filter(|_| digits)?;
    (!disk.is_empty()).then_some((disk, number))
}
