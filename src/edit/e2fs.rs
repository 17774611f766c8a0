//! Storing edits in ext2/3/4 with the host's own e2fsprogs, without root.
//!
//! A file that is rewritten keeps its inode: new bytes go into the blocks that it has, or that it is
//! given, and its length is changed. So owner, mode, times, links and extended attributes stay
//! without being copied. Where the number of blocks stays too, which is nearly always, no tool writes
//! at all: `debugfs` reads all bitmaps before it changes anything, which takes seconds on a
//! filesystem of terabytes, so it only says where things are, and block and inode are written here.
//! The same edits of the same filesystem give the same bytes: nothing is stamped with today's time.

mod labels;
mod tools;
pub(super) mod whole;

use super::{Access, Change, Content, Edit};
use crate::fs::ext4::inode::InodeFormat;
use crate::{Error, ErrorKind, Result};
use labels::Labels;
use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tools::Tools;

/// Store `edits` in the filesystem in `partition`. A journal that was not replayed is replayed first.
pub(super) fn apply(edits: &[Edit], partition: &Path) -> Result<()> {
    let mut format = format(partition)?;
    if format.needs_recovery {
        Tools { partition, now: now(&format) }.e2fsck(&["-E", "journal_only", "-p"])?;
        format = self::format(partition)?;
    }
    let store = Store { partition, format, tools: Tools { partition, now: now(&format) } };
    store.structure(edits)?;
    store.rewrites(edits)
}

/// The present, as far as our edits are concerned: when the filesystem was last written to. The tools
/// take 0 for "look at the clock".
fn now(format: &InodeFormat) -> u64 {
    format.written.max(1)
}

fn superblock(partition: &Path) -> Result<[u8; 1024]> {
    let mut bytes = [0; 1024];
    File::open(partition)
        .and_then(|f| f.read_exact_at(&mut bytes, 1024))
        .map_err(|e| Error::io("cannot read the guest's superblock", e))?;
    Ok(bytes)
}

fn format(partition: &Path) -> Result<InodeFormat> {
    InodeFormat::parse(&superblock(partition)?)
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, "the guest's superblock is damaged"))
}

/// A file to rewrite, and where its inode and blocks are.
struct Rewrite<'a> {
    path: &'a str,
    new: &'a [u8],
    inode: u32,
    /// Where the inode starts in the partition, in bytes.
    inode_at: u64,
    blocks: Vec<MappedBlock>,
}

/// A block of a file.
struct MappedBlock {
    /// Where it is, counted from the start of the filesystem; 0 if nowhere.
    number: u64,
    /// It is the file's, but reads as zeros until it is marked as written.
    unwritten: bool,
}

struct Store<'a> {
    partition: &'a Path,
    format: InodeFormat,
    tools: Tools<'a>,
}

impl Store<'_> {
    /// Whatever is new or goes away, in one run of debugfs.
    fn structure(&self, edits: &[Edit]) -> Result<()> {
        let mut commands = String::new();
        let mut contents = Vec::new();
        let labels = Labels::of_parents(edits, &self.tools)?;
        for edit in edits {
            let path = quoted(&edit.path)?;
            // Writing to a String cannot fail.
            let _ = match &edit.change {
                Change::Rewrite { .. } => Ok(()),
                Change::Remove => writeln!(commands, "rm {path}"),
                Change::Symlink { target } => {
                    writeln!(commands, "symlink {path} {}", quoted(target)?)
                }
                Change::MakeDir(access) => {
                    let _ = writeln!(commands, "mkdir {path}");
                    owned(&mut commands, &path, 0o040_000, access)
                }
                Change::Create { content, access } => {
                    let file = HostCopy::new(content)?;
                    let _ = writeln!(commands, "write {} {path}", quoted(file.path()?)?);
                    contents.push(file);
                    owned(&mut commands, &path, 0o100_000, access)
                }
            };
            if let Some(label) = labels.for_new(edit)? {
                let _ = writeln!(commands, "ea_set -f {label} {path} {}", labels::NAME);
            }
        }
        if commands.is_empty() {
            return Ok(());
        }
        self.tools.debugfs(&["-w"], &commands).map(drop)
    }

    /// New contents for what exists.
    fn rewrites(&self, edits: &[Edit]) -> Result<()> {
        let wanted: Vec<(&str, &[u8], &[u8])> = edits
            .iter()
            .filter_map(|e| match &e.change {
                Change::Rewrite { old, new } => Some((&*e.path, &**old, &**new)),
                _ => None,
            })
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        self.resize(&wanted)?;
        let found = self.locate(&wanted)?;
        let failed = |e| Error::io("cannot write to the guest's filesystem", e);
        let file = File::options().read(true).write(true).open(self.partition).map_err(failed)?;
        let mut mark = String::new();
        for rewrite in &found {
            self.fill(rewrite, &file)?;
            if rewrite.blocks.iter().any(|b| b.unwritten) {
                let _ = writeln!(mark, "extent_open {}", quoted(rewrite.path)?);
                let unwritten = rewrite.blocks.iter().enumerate().filter(|(_, b)| b.unwritten);
                for (i, block) in unwritten {
                    let _ = writeln!(mark, "set_bmap {i} {}", block.number);
                }
                mark.push_str("extent_close\n");
            }
        }
        file.sync_data().map_err(failed)?;
        if !mark.is_empty() {
            drop(file);
            self.tools.debugfs(&["-w"], &mark)?;
        }
        Ok(())
    }

    /// Give files as many blocks as their new contents need.
    fn resize(&self, wanted: &[(&str, &[u8], &[u8])]) -> Result<()> {
        let blocks = |bytes: &[u8]| (bytes.len() as u64).div_ceil(self.format.block_size);
        let mut commands = String::new();
        for &(path, old, new) in wanted {
            let (has, needs) = (blocks(old), blocks(new));
            let path = quoted(path)?;
            let _ = match needs {
                _ if needs > has => writeln!(commands, "fallocate {path} {has} {}", needs - 1),
                // An empty file may keep its one block, which says nothing of its length.
                _ if needs.max(1) < has => {
                    writeln!(commands, "punch {path} {} {}", needs.max(1), has - 1)
                }
                _ => Ok(()),
            };
        }
        if commands.is_empty() {
            return Ok(());
        }
        self.tools.debugfs(&["-w"], &commands).map(drop)
    }

    /// Where the files' inodes and blocks are.
    fn locate<'a>(&self, wanted: &[(&'a str, &[u8], &'a [u8])]) -> Result<Vec<Rewrite<'a>>> {
        let needs = |new: &[u8]| (new.len() as u64).div_ceil(self.format.block_size);
        let mut commands = String::new();
        for (path, _, new) in wanted {
            let path = quoted(path)?;
            let _ = writeln!(commands, "imap {path}");
            for i in 0..needs(new) {
                let _ = writeln!(commands, "bmap {path} {i}");
            }
        }
        // -c leaves the bitmaps unread, which on a large filesystem is most of the work.
        let answers = self.tools.debugfs(&["-c"], &commands)?;
        // Commands are echoed, and setting the time is answered as well.
        let ours = answers.lines().skip_while(|line| !line.starts_with("debugfs: imap "));
        let mut lines = ours.filter(|line| !line.starts_with("debugfs: "));
        let mut out = Vec::new();
        for &(path, _, new) in wanted {
            let mut place = || imap_answer(lines.next()?, lines.next()?);
            let (inode, block, offset) = place().ok_or_else(|| {
                Error::new(ErrorKind::Io, format!("debugfs does not say where {path} is"))
            })?;
            let of_file = lines.by_ref().take(needs(new) as usize);
            let blocks: Vec<MappedBlock> = of_file.filter_map(bmap_answer).collect();
            if blocks.len() as u64 != needs(new) || blocks.iter().any(|b| b.number == 0) {
                return Err(no_blocks(path));
            }
            let inode_at = block * self.format.block_size + offset;
            out.push(Rewrite { path, new, inode, inode_at, blocks });
        }
        Ok(out)
    }

    /// Write a file's new bytes and their number.
    fn fill(&self, rewrite: &Rewrite, partition: &File) -> Result<()> {
        let failed = |e| Error::io(format!("cannot write {} in the guest", rewrite.path), e);
        let block_size = self.format.block_size;
        let mut inode = vec![0; self.format.inode_size];
        partition.read_exact_at(&mut inode, rewrite.inode_at).map_err(failed)?;
        if !self.format.is_plain_file(&inode) {
            return Err(no_blocks(rewrite.path));
        }
        for (chunk, block) in rewrite.new.chunks(block_size as usize).zip(&rewrite.blocks) {
            // As the kernel does, zeros behind the end of the file.
            let mut bytes = chunk.to_vec();
            bytes.resize(block_size as usize, 0);
            partition.write_all_at(&bytes, block.number * block_size).map_err(failed)?;
        }
        self.format.set_len(&mut inode, rewrite.inode, rewrite.new.len() as u64);
        partition.write_all_at(&inode, rewrite.inode_at).map_err(failed)
    }
}

fn no_blocks(path: &str) -> Error {
    let what = format!("{path} lies in no plain blocks in the guest's filesystem");
    Error::new(ErrorKind::Unsupported, what)
}

/// Commands that give `path`, already quoted, its mode and owner.
fn owned(commands: &mut String, path: &str, kind: u32, access: &Access) -> std::fmt::Result {
    writeln!(commands, "sif {path} mode 0{:o}", kind | access.mode & 0o7777)?;
    writeln!(commands, "sif {path} uid {}", access.uid)?;
    writeln!(commands, "sif {path} gid {}", access.gid)
}

/// A file of this host that holds what debugfs is to copy.
enum HostCopy<'a> {
    Named(&'a Path),
    Temporary(tempfile::NamedTempFile),
}

impl<'a> HostCopy<'a> {
    fn new(content: &'a Content) -> Result<Self> {
        let failed = |e| Error::io("cannot write a temporary file", e);
        match content {
            Content::HostFile(path) => Ok(Self::Named(path)),
            Content::Bytes(bytes) => {
                let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
                std::io::Write::write_all(&mut file, bytes).map_err(failed)?;
                Ok(Self::Temporary(file))
            }
        }
    }

    fn path(&self) -> Result<&str> {
        let path = match self {
            Self::Named(path) => path,
            Self::Temporary(file) => file.path(),
        };
        path.to_str().ok_or_else(|| {
            let what = format!("the name of {} is no text that debugfs takes", path.display());
            Error::new(ErrorKind::Unsupported, what)
        })
    }
}

/// The two lines that answer `imap`: the inode's number, and its block and offset in bytes.
/// `Inode 14 is part of block group 0`, `\tlocated at block 36, offset 0x0d00`.
fn imap_answer(first: &str, second: &str) -> Option<(u32, u64, u64)> {
    let number = first.strip_prefix("Inode ")?.split(' ').next()?.parse().ok()?;
    let place = second.trim().strip_prefix("located at block ")?;
    let (block, offset) = place.split_once(", offset 0x")?;
    Some((number, block.parse().ok()?, u64::from_str_radix(offset, 16).ok()?))
}

/// The line that answers `bmap`: `1174`, or `1174 (uninit)`.
fn bmap_answer(line: &str) -> Option<MappedBlock> {
    let line = line.trim();
    let (number, unwritten) = match line.split_once(' ') {
        None => (line, false),
        Some((number, "(uninit)")) => (number, true),
        Some(_) => return None,
    };
    Some(MappedBlock { number: number.parse().ok()?, unwritten })
}

/// A path as debugfs takes it.
fn quoted(path: &str) -> Result<String> {
    if path.chars().any(|c| c == '"' || c == '\\' || c.is_control()) {
        return Err(Error::new(ErrorKind::Unsupported, "a file name with quotes"));
    }
    Ok(format!("\"{path}\""))
}
