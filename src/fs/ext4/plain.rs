//! A reader of our own for the features that `ext4-view` does not know: `meta_bg`, `inline_data`,
//! `large_dir`, `ea_inode`, `casefold`, `mmp`, directories without file types, inodes of 128 bytes
//! with checksums, and holes in the files of ext2 and ext3.
//!
//! It checks no checksums. Directories are searched from their first block to their last: their hash
//! trees look like empty entries to such a search. Everything that is read is charged to the budget.
//!
//! Source: Linux Documentation/filesystems/ext4/.

mod blocks;
mod dir;
mod inline;

use super::adapter::Adapter;
use super::fields::{le16, le32};
use super::limits::{MAX_DIR_BYTES, MAX_DIR_ENTRIES, too_many};
use crate::fs::budget::{Budget, Cost};
use crate::fs::guest_fs::{FileKind, GuestFile, Stat, check_target_len, target_text};
use crate::{Error, ErrorKind, Result};
use blocks::{Run, runs};
use lru::LruCache;
use std::cell::RefCell;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::rc::Rc;

/// Number of the root directory's inode.
const ROOT: u32 = 2;
/// Directories whose names are kept, at most, and names in them.
const KEPT: NonZeroUsize = NonZeroUsize::new(32).unwrap();
const KEPT_NAMES: usize = 500_000;
/// Flags of inodes.
const ENCRYPTED: u32 = 0x800;
const EXTENTS: u32 = 0x8_0000;
const INLINE: u32 = 0x1000_0000;

/// Incompatible features: those that are read here, and names for the others.
const READ: u32 = FILETYPE | 0x4 | META_BG | 0x40 | 0x80 | MMP | 0x200 | EA_INODE | 0x2000 | OURS;
const OURS: u32 = LARGE_DIR | INLINE_DATA | 0x1_0000 | CASEFOLD;
const FILETYPE: u32 = 0x2;
const META_BG: u32 = 0x10;
const MMP: u32 = 0x100;
const EA_INODE: u32 = 0x400;
const LARGE_DIR: u32 = 0x4000;
const INLINE_DATA: u32 = 0x8000;
const CASEFOLD: u32 = 0x2_0000;
const UNREAD: [(u32, &str); 3] = [(0x1, "compression"), (0x8, "journal_dev"), (0x1000, "dirdata")];
/// The read-only compatible feature that metadata have checksums.
const METADATA_CSUM: u32 = 0x400;

/// Whether a filesystem with the superblock `raw` is read here.
pub(super) fn is_needed(raw: &[u8]) -> bool {
    let (incompat, ro_compat) = (le32(raw, 0x60), le32(raw, 0x64));
    let inode_size = if le32(raw, 0x4c) == 0 { 128 } else { le16(raw, 0x58) };
    let special = META_BG | MMP | EA_INODE | LARGE_DIR | INLINE_DATA | CASEFOLD;
    let plain = FILETYPE | 0x40;
    incompat & plain != plain
        || incompat & special != 0
        || (inode_size == 128 && ro_compat & METADATA_CSUM != 0)
}

/// Names in a directory, and their inodes.
type Names = Rc<HashMap<Vec<u8>, u32>>;

/// The filesystem.
pub(super) struct PlainExt {
    adapter: Adapter,
    geometry: Geometry,
    budget: Budget,
    dirs: RefCell<LruCache<u32, Names>>,
}

/// What the superblock says, as far as it matters here.
struct Geometry {
    block_size: u64,
    blocks_count: u64,
    inodes_count: u32,
    inodes_per_group: u32,
    blocks_per_group: u64,
    inode_size: u64,
    descriptor_size: u64,
    first_data_block: u64,
    first_meta_bg: u64,
    incompat: u32,
    /// Groups with a copy of the superblock: `sparse_super2`'s two, or by the rule.
    backups: Backups,
}

#[derive(Clone, Copy)]
enum Backups {
    Everywhere,
    Sparse,
    In([u32; 2]),
}

/// An inode that was read.
pub(super) struct Inode {
    raw: Vec<u8>,
    number: u32,
}

impl Inode {
    fn flags(&self) -> u32 {
        le32(&self.raw, 0x20)
    }

    fn len(&self) -> u64 {
        u64::from(le32(&self.raw, 0x4)) | u64::from(le32(&self.raw, 0x6c)) << 32
    }

    fn kind(&self) -> FileKind {
        match le16(&self.raw, 0) & 0xf000 {
            0x8000 => FileKind::File,
            0x4000 => FileKind::Dir,
            0xa000 => FileKind::Symlink,
            _ => FileKind::Other,
        }
    }

    fn stat(&self) -> Stat {
        let extra = self.raw.len() > 128 && le16(&self.raw, 0x80) >= 0x8c - 0x80;
        let more = if extra { le32(&self.raw, 0x88) } else { 0 };
        // The seconds are signed; two more bits count epochs of 2^32 seconds.
        let secs = i64::from(le32(&self.raw, 0x10) as i32) + (i64::from(more & 3) << 32);
        Stat {
            kind: self.kind(),
            len: self.len(),
            mtime_secs: secs,
            mtime_nanos: more >> 2,
            revision: 0,
        }
    }
}

impl PlainExt {
    /// The filesystem whose superblock, after recovery, is `raw`.
    ///
    /// # Errors
    /// `Unsupported` with the names of features that are not read.
    pub(super) fn new(adapter: Adapter, raw: &[u8], budget: Budget) -> Result<Self> {
        let incompat = le32(raw, 0x60);
        let unknown = incompat & !READ;
        if unknown != 0 {
            let name = |bit: u32| match UNREAD.iter().find(|(known, _)| *known == bit) {
                Some((_, name)) => (*name).to_owned(),
                None => format!("the unknown feature {bit:#x}"),
            };
            let bits = (0..32).map(|i| 1 << i).filter(|bit| unknown & bit != 0);
            let names: Vec<String> = bits.map(name).collect();
            let what = format!("ext4 with {} cannot be read", names.join(" and "));
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        let is_64bit = incompat & 0x80 != 0;
        let high = if is_64bit { le32(raw, 0x150) } else { 0 };
        let backups = match (le32(raw, 0x5c) & 0x200 != 0, le32(raw, 0x64) & 1 != 0) {
            (true, _) => Backups::In([le32(raw, 0x24c), le32(raw, 0x250)]),
            (false, true) => Backups::Sparse,
            (false, false) => Backups::Everywhere,
        };
        let geometry = Geometry {
            block_size: u64::from(adapter.block_size as u32),
            blocks_count: u64::from(le32(raw, 0x4)) | u64::from(high) << 32,
            inodes_count: le32(raw, 0),
            inodes_per_group: le32(raw, 0x28).max(1),
            blocks_per_group: u64::from(le32(raw, 0x20)).max(1),
            inode_size: if le32(raw, 0x4c) == 0 { 128 } else { le16(raw, 0x58).into() },
            descriptor_size: if is_64bit { le16(raw, 0xfe).into() } else { 32 },
            first_data_block: le32(raw, 0x14).into(),
            first_meta_bg: if incompat & META_BG != 0 { le32(raw, 0x104).into() } else { u64::MAX },
            incompat,
            backups,
        };
        Ok(Self { adapter, geometry, budget, dirs: RefCell::new(LruCache::new(KEPT)) })
    }

    /// Reads bytes of the filesystem.
    fn bytes(&self, start: u64, len: usize, what: &str) -> Result<Vec<u8>> {
        let size = self.geometry.block_size.saturating_mul(self.geometry.blocks_count);
        if start.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(damaged(what));
        }
        let mut out = vec![0; len];
        let failed = |e| Error::io(format!("cannot read {what} in the guest"), e);
        self.adapter.fill(start, &mut out).map_err(failed)?;
        Ok(out)
    }

    /// A block of metadata, charged to the budget.
    fn block(&self, block: u64, what: &str) -> Result<Vec<u8>> {
        let size = self.geometry.block_size;
        self.budget.charge_for(what, Cost::SearchedBytes, size)?;
        self.bytes(block.checked_mul(size).ok_or_else(|| damaged(what))?, size as usize, what)
    }

    /// Where the descriptor of a group is, in bytes.
    fn descriptor_at(&self, group: u64) -> Option<u64> {
        let g = &self.geometry;
        let per_block = g.block_size / g.descriptor_size;
        let (index, within) = (group / per_block, group % per_block);
        let block = if index < g.first_meta_bg {
            g.first_data_block + 1 + index
        } else {
            let first = index.checked_mul(per_block)?;
            let start = first.checked_mul(g.blocks_per_group)?.checked_add(g.first_data_block)?;
            start + u64::from(g.backups.has(first))
        };
        block.checked_mul(g.block_size)?.checked_add(within * g.descriptor_size)
    }

    fn inode(&self, number: u32, what: &str) -> Result<Inode> {
        let g = &self.geometry;
        let index = number.checked_sub(1).filter(|_| number <= g.inodes_count);
        let index = index.ok_or_else(|| damaged(what))?;
        let at = self.descriptor_at((index / g.inodes_per_group).into());
        let at = at.ok_or_else(|| damaged(what))?;
        let descriptor = self.bytes(at, g.descriptor_size as usize, what)?;
        let high = if g.descriptor_size >= 64 { le32(&descriptor, 0x28) } else { 0 };
        let table = u64::from(le32(&descriptor, 0x8)) | u64::from(high) << 32;
        let offset = u64::from(index % g.inodes_per_group) * g.inode_size;
        let at = table.checked_mul(g.block_size).and_then(|at| at.checked_add(offset));
        let raw = self.bytes(at.ok_or_else(|| damaged(what))?, g.inode_size as usize, what)?;
        self.budget.charge_for(what, Cost::SearchedBytes, g.inode_size)?;
        let inode = Inode { raw, number };
        if inode.flags() & ENCRYPTED != 0 {
            let what = format!("{what} in the guest is encrypted");
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        Ok(inode)
    }

    /// The inode at a canonical path.
    fn find(&self, path: &str) -> Result<Inode> {
        let mut inode = self.inode(ROOT, path)?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let missing = || Error::new(ErrorKind::NotFound, format!("{path} does not exist"));
            if inode.kind() != FileKind::Dir {
                return Err(missing());
            }
            let number = *self.names(&inode, path)?.get(name.as_bytes()).ok_or_else(missing)?;
            inode = self.inode(number, path)?;
        }
        Ok(inode)
    }

    fn names(&self, dir: &Inode, path: &str) -> Result<Names> {
        if let Some(names) = self.dirs.borrow_mut().get(&dir.number) {
            return Ok(Rc::clone(names));
        }
        if dir.len() > MAX_DIR_BYTES {
            return Err(too_many(path));
        }
        let mut names = HashMap::new();
        if dir.flags() & INLINE != 0 {
            dir::inline(&inline::data(&dir.raw), &mut names);
        } else {
            let mut data = self.open_inode(dir, path)?;
            let size = self.geometry.block_size as usize;
            self.budget.charge_for(path, Cost::SearchedBytes, dir.len())?;
            let mut block = vec![0; size];
            for number in 0..dir.len() / size as u64 {
                let n = data.read_at(&mut block, number * size as u64)?;
                let has_types = self.geometry.incompat & FILETYPE != 0;
                dir::block(&block[..n], has_types, &mut names);
                if names.len() > MAX_DIR_ENTRIES {
                    return Err(too_many(path));
                }
            }
        }
        let names: Names = Rc::new(names);
        let mut dirs = self.dirs.borrow_mut();
        if dirs.iter().map(|(_, names)| names.len()).sum::<usize>() + names.len() > KEPT_NAMES {
            dirs.clear();
        }
        dirs.put(dir.number, Rc::clone(&names));
        Ok(names)
    }

    /// What is at a canonical path, and the target of a symlink.
    pub(super) fn node(&self, path: &str) -> Result<(Stat, Option<String>)> {
        let inode = self.find(path)?;
        let stat = inode.stat();
        if stat.kind == FileKind::Dir && stat.len > MAX_DIR_BYTES {
            return Err(too_many(path));
        }
        if stat.kind != FileKind::Symlink {
            return Ok((stat, None));
        }
        check_target_len(path, stat.len)?;
        let target = if stat.len < 60 && inode.flags() & (EXTENTS | INLINE) == 0 {
            // Stored in place of the block numbers.
            inode.raw[0x28..0x28 + stat.len as usize].to_vec()
        } else {
            let mut target = vec![0; stat.len as usize];
            let n = self.open_inode(&inode, path)?.read_at(&mut target, 0)?;
            target.truncate(n);
            target
        };
        Ok((stat, Some(target_text(path, target)?)))
    }

    /// The names in the directory at a canonical path.
    pub(super) fn list(&self, path: &str) -> Result<Vec<String>> {
        let names = self.names(&self.find(path)?, path)?;
        let text = |name: &Vec<u8>| String::from_utf8(name.clone()).ok();
        Ok(names.keys().filter_map(text).collect())
    }

    /// Opens the file at a canonical path.
    pub(super) fn open(&self, path: &str) -> Result<PlainFile<'_>> {
        self.open_inode(&self.find(path)?, path)
    }

    fn open_inode(&self, inode: &Inode, path: &str) -> Result<PlainFile<'_>> {
        let content = match inode.flags() & INLINE != 0 {
            true => Content::Inline(inline::data(&inode.raw)),
            false => {
                let block = |number: u64| self.block(number, path);
                let (root, size) = (&inode.raw[0x28..0x64], self.geometry.block_size);
                let runs = runs(inode.flags() & EXTENTS != 0, root, size, block);
                Content::Blocks(runs.map_err(|e| e.unwrap_or_else(|| damaged(path)))?)
            }
        };
        Ok(PlainFile { fs: self, content, len: inode.len(), path: path.to_owned() })
    }
}

impl Backups {
    fn has(self, group: u64) -> bool {
        let is_power = |base: u64| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        match self {
            _ if group == 0 => true,
            Self::Everywhere => true,
            Self::Sparse => group == 1 || [3, 5, 7].into_iter().any(is_power),
            Self::In(groups) => groups.iter().any(|backup| u64::from(*backup) == group),
        }
    }
}

enum Content {
    Inline(Vec<u8>),
    Blocks(Vec<Run>),
}

/// A file, open for reading.
pub(super) struct PlainFile<'a> {
    fs: &'a PlainExt,
    content: Content,
    len: u64,
    path: String,
}

impl GuestFile for PlainFile<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let left = self.len.saturating_sub(offset);
        let total = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let buf = &mut buf[..total];
        buf.fill(0);
        let runs = match &self.content {
            Content::Inline(data) => {
                let rest = usize::try_from(offset).ok().and_then(|at| data.get(at..));
                let rest = rest.unwrap_or_default();
                let n = rest.len().min(total);
                buf[..n].copy_from_slice(&rest[..n]);
                return Ok(total);
            }
            Content::Blocks(runs) => runs,
        };
        let size = self.fs.geometry.block_size;
        let end = offset + total as u64;
        let first = runs.partition_point(|run| run.end().saturating_mul(size) <= offset);
        for run in runs[first..].iter().take_while(|run| run.index.saturating_mul(size) < end) {
            let from = offset.max(run.index * size);
            let to = end.min(run.end() * size);
            // Both are within the file and within the buffer.
            let (at, n) = ((from - offset) as usize, (to - from) as usize);
            let start = run.block.checked_mul(size).ok_or_else(|| damaged(&self.path))?;
            let start = start.checked_add(from - run.index * size);
            let start = start.ok_or_else(|| damaged(&self.path))?;
            buf[at..at + n].copy_from_slice(&self.fs.bytes(start, n, &self.path)?);
        }
        Ok(total)
    }
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("cannot read {what} in the guest: damaged ext4"))
}
