//! A disk in an XVA: blocks that are files of the archive.

use crate::image::layer::{Layer, Place, Put};
use crate::image::stored_file::StoredFile;
use std::io;
use std::sync::Arc;

/// A stored block. Offsets and lengths in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Block {
    /// Where it begins on the disk.
    pub(super) start: u64,
    /// Where it begins in the archive.
    pub(super) at: u64,
    pub(super) len: u64,
}

/// A disk; what no block stores is zero.
#[derive(Debug)]
pub(super) struct XvaLayer {
    pub(super) file: [StoredFile; 1],
    /// Sorted, without overlaps.
    pub(super) blocks: Arc<Vec<Block>>,
    pub(super) len: u64,
}

impl Layer for XvaLayer {
    fn len(&self) -> u64 {
        self.len
    }

    fn locate(&self, start: u64, end: u64, put: &mut Put<'_>) -> io::Result<()> {
        let mut at = start;
        let first = self.blocks.partition_point(|block| block.start + block.len <= start);
        for block in self.blocks[first..].iter().take_while(|block| block.start < end) {
            if at < block.start {
                put(at, block.start, Place::Zeros);
                at = block.start;
            }
            let stop = (block.start + block.len).min(end);
            put(at, stop, Place::Stored { file: 0, offset: block.at + (at - block.start) });
            at = stop;
        }
        if at < end {
            put(at, end, Place::Zeros);
        }
        Ok(())
    }

    fn files(&self) -> &[StoredFile] {
        &self.file
    }
}
