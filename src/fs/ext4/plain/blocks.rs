//! The blocks of a file: extents, or ext2's direct and indirect blocks.

use crate::Error;
use crate::fs::ext4::fields::{le16, le32};

/// Most nodes and indirect blocks of one file.
const MAX_NODES: usize = 4096;
/// Most runs of one file.
const MAX_RUNS: usize = 1 << 20;
/// Length in blocks from which an extent is not initialised.
const UNWRITTEN: u32 = 1 << 15;

/// Blocks that follow one another, in the file and in the filesystem.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Run {
    /// Index of the first in the file.
    pub(super) index: u64,
    /// The first.
    pub(super) block: u64,
    /// How many.
    pub(super) len: u64,
}

impl Run {
    pub(super) fn end(&self) -> u64 {
        self.index.saturating_add(self.len)
    }
}

/// Why a file's blocks are not known: `None` if its metadata are damaged.
type Failure = Option<Error>;

/// The runs of a file in the order of their indices; holes and blocks that were never written are left
/// out. `root` is the part of its inode with block numbers; `read` reads a block, of `block_size` bytes.
pub(super) fn runs(
    has_extents: bool,
    root: &[u8],
    block_size: u64,
    read: impl Fn(u64) -> Result<Vec<u8>, Error>,
) -> Result<Vec<Run>, Failure> {
    let mut walk = Walk { read, runs: Vec::new(), nodes: 0, per_node: block_size / 4 };
    if has_extents {
        walk.extents(root, None)?;
    } else {
        let mut index = 0;
        for i in 0..12 {
            walk.push(index, le32(root, i * 4).into())?;
            index += 1;
        }
        for level in 1..=3 {
            index = walk.indirect(le32(root, (11 + level) * 4), level as u32, index)?;
        }
    }
    match walk.runs.windows(2).all(|w| w[0].end() <= w[1].index) {
        true => Ok(walk.runs),
        false => Err(None),
    }
}

struct Walk<F> {
    read: F,
    runs: Vec<Run>,
    nodes: usize,
    /// Block numbers in one block.
    per_node: u64,
}

impl<F: Fn(u64) -> Result<Vec<u8>, Error>> Walk<F> {
    fn node(&mut self, block: u64) -> Result<Vec<u8>, Failure> {
        self.nodes += 1;
        if self.nodes > MAX_NODES || block == 0 {
            return Err(None);
        }
        (self.read)(block).map_err(Some)
    }

    fn extents(&mut self, node: &[u8], depth: Option<u16>) -> Result<(), Failure> {
        let (entries, here) = (usize::from(le16(node, 2)), le16(node, 6));
        let fits = (entries + 1) * 12 <= node.len() && here <= 5;
        if le16(node, 0) != 0xf30a || !fits || depth.is_some_and(|depth| depth != here) {
            return Err(None);
        }
        for entry in node[12..].chunks_exact(12).take(entries) {
            if here > 0 {
                let child = u64::from(le32(entry, 4)) | u64::from(le16(entry, 8)) << 32;
                let child = self.node(child)?;
                self.extents(&child, Some(here - 1))?;
                continue;
            }
            let len = u32::from(le16(entry, 4));
            let block = u64::from(le32(entry, 8)) | u64::from(le16(entry, 6)) << 32;
            if len <= UNWRITTEN {
                self.add(Run { index: le32(entry, 0).into(), block, len: len.into() })?;
            }
        }
        Ok(())
    }

    /// Adds the blocks that `block` lists at `level`; returns the index after them.
    fn indirect(&mut self, block: u32, level: u32, index: u64) -> Result<u64, Failure> {
        if block == 0 {
            return Ok(index.saturating_add(self.per_node.saturating_pow(level)));
        }
        let data = self.node(block.into())?;
        let mut index = index;
        for at in (0..data.len()).step_by(4) {
            let number = le32(&data, at);
            if level == 1 {
                self.push(index, number.into())?;
                index += 1;
            } else if number == 0 {
                index = index.saturating_add(self.per_node.saturating_pow(level - 1));
            } else {
                index = self.indirect(number, level - 1, index)?;
            }
        }
        Ok(index)
    }

    fn push(&mut self, index: u64, block: u64) -> Result<(), Failure> {
        if block == 0 {
            return Ok(());
        }
        match self.runs.last_mut() {
            Some(run) if run.end() == index && run.block.checked_add(run.len) == Some(block) => {
                run.len += 1;
                Ok(())
            }
            _ => self.add(Run { index, block, len: 1 }),
        }
    }

    fn add(&mut self, run: Run) -> Result<(), Failure> {
        if self.runs.len() >= MAX_RUNS {
            return Err(None);
        }
        self.runs.push(run);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(depth: u16, entries: &[[u32; 3]]) -> Vec<u8> {
        let mut out = vec![0x0a, 0xf3, entries.len() as u8, 0, 4, 0, depth as u8, 0, 0, 0, 0, 0];
        for entry in entries {
            out.extend(entry.iter().flat_map(|word| word.to_le_bytes()));
        }
        out.resize(60, 0);
        out
    }

    #[test]
    fn extents_and_holes() {
        let none = |_| Err(Error::new(crate::ErrorKind::Io, "none"));
        let leaf = node(0, &[[0, 2, 100], [5, 0x8003, 200], [9, 1, 300]]);
        let found = runs(true, &leaf, 1024, none).unwrap();
        let run = |index, block, len| Run { index, block, len };
        assert_eq!(found, [run(0, 100, 2), run(9, 300, 1)]);
        let root = node(1, &[[0, 7, 0]]);
        let read = |block: u64| {
            assert_eq!(block, 7);
            Ok(leaf.clone())
        };
        assert_eq!(runs(true, &root, 1024, read).unwrap().len(), 2);
        // A node that is its own child.
        let cycle = |_| Ok(node(1, &[[0, 7, 0]]));
        assert!(runs(true, &root, 1024, cycle).is_err());
        let overlap = node(0, &[[0, 2, 100], [1, 2, 200]]);
        assert!(runs(true, &overlap, 1024, none).is_err());
        assert!(runs(true, &[0; 60], 1024, none).is_err());
    }

    #[test]
    fn direct_and_indirect_blocks() {
        let mut root = vec![0; 60];
        for (i, block) in [(0, 50_u32), (1, 51), (11, 60), (12, 2), (13, 3)] {
            root[i * 4..i * 4 + 4].copy_from_slice(&block.to_le_bytes());
        }
        let list = |numbers: &[(usize, u32)]| {
            let mut out = vec![0; 1024];
            for (i, block) in numbers {
                out[i * 4..i * 4 + 4].copy_from_slice(&block.to_le_bytes());
            }
            out
        };
        let read = |block: u64| {
            Ok(match block {
                2 => list(&[(0, 61), (255, 70)]),
                3 => list(&[(1, 4)]),
                4 => list(&[(3, 80)]),
                _ => vec![0; 1024],
            })
        };
        let found = runs(false, &root, 1024, read).unwrap();
        let found: Vec<_> = found.iter().map(|r| (r.index, r.block, r.len)).collect();
        let last = 12 + 256 + 256 + 3;
        assert_eq!(found, [(0, 50, 2), (11, 60, 2), (12 + 255, 70, 1), (last, 80, 1)]);
    }
}
