//! Locations of files: their inodes and blocks, as reported by debugfs.
//!
//! After this lookup, existing files are addressed by inode number: a path appears only here, in
//! commands that read.

use super::script::{Script, quoted};
use super::tools::{HostFiles, Tools};
use crate::{Error, ErrorKind, Result};
use std::collections::BTreeMap;

/// An inode, and where it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Inode {
    pub(super) number: u32,
    /// Block that contains it, counted from the start of the filesystem.
    pub(super) block: u64,
    /// Offset in that block, in bytes.
    pub(super) offset: u64,
}

/// A block of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct MappedBlock {
    /// Its position, counted from the start of the filesystem; 0 if it has none.
    pub(super) number: u64,
    /// The block belongs to the file, but reads as zeros until it is marked as written.
    pub(super) unwritten: bool,
}

/// A file, and as many of its first blocks as were asked for.
#[derive(Clone, Debug)]
struct Located {
    inode: Inode,
    blocks: Vec<MappedBlock>,
}

/// Inodes and first blocks of files, by path.
#[derive(Debug, Default)]
pub(super) struct Inodes(BTreeMap<String, Located>);

impl Inodes {
    /// The inodes of files, which must exist, and as many of their first blocks as the map says; fewer
    /// if debugfs reports fewer. One run of debugfs, because starting it costs some milliseconds.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] with the message of debugfs; [`ErrorKind::Unsupported`] for a path that it
    /// cannot handle.
    pub(super) fn find(tools: &Tools, wanted: &BTreeMap<&str, u64>) -> Result<Self> {
        let mut script = Script::default();
        for (path, blocks) in wanted {
            let path = quoted(path)?;
            script.push(format!("imap {path}"))?;
            for i in 0..*blocks {
                script.push(format!("bmap {path} {i}"))?;
            }
        }
        let answers = ask(tools, &script, "debugfs: imap ")?;
        let mut lines = answers.iter().map(String::as_str);
        let mut found = BTreeMap::new();
        for (path, blocks) in wanted {
            let mut place = || imap_answer(lines.next()?, lines.next()?);
            let inode = place().ok_or_else(|| {
                Error::new(ErrorKind::Io, format!("debugfs does not say where {path} is"))
            })?;
            let blocks = lines.by_ref().take(*blocks as usize).filter_map(bmap_answer).collect();
            found.insert((*path).to_owned(), Located { inode, blocks });
        }
        Ok(Self(found))
    }

    /// The inode of `path`, which must be one of those looked up.
    pub(super) fn of(&self, path: &str) -> Result<Inode> {
        self.located(path).map(|found| found.inode)
    }

    /// The blocks of `path` that were looked up.
    pub(super) fn blocks(&self, path: &str) -> Result<&[MappedBlock]> {
        self.located(path).map(|found| &*found.blocks)
    }

    fn located(&self, path: &str) -> Result<&Located> {
        self.0.get(path).ok_or_else(|| {
            Error::new(ErrorKind::Io, format!("the inode of {path} in the guest is not known"))
        })
    }
}

/// The first blocks of files, as many of each as `wanted` says; fewer if debugfs reports fewer.
pub(super) fn blocks(tools: &Tools, wanted: &[(Inode, u64)]) -> Result<Vec<Vec<MappedBlock>>> {
    let mut script = Script::default();
    for (inode, count) in wanted {
        for i in 0..*count {
            script.push(format!("bmap <{}> {i}", inode.number))?;
        }
    }
    let answers = ask(tools, &script, "debugfs: bmap ")?;
    let mut lines = answers.iter();
    let of_file = |count: u64| {
        lines.by_ref().take(count as usize).filter_map(|line| bmap_answer(line)).collect()
    };
    Ok(wanted.iter().map(|(_, count)| *count).map(of_file).collect())
}

/// The lines that answer `script`; the echo of its commands begins with `first`.
fn ask(tools: &Tools, script: &Script, first: &str) -> Result<Vec<String>> {
    if script.is_empty() {
        return Ok(Vec::new());
    }
    // -c skips reading the bitmaps, which is most of the work on a large filesystem.
    let said = tools.debugfs(&["-c"], script, &HostFiles::none())?;
    // debugfs echoes commands, and also prints a response when the time is set.
    let ours = said.lines().skip_while(|line| !line.starts_with(first));
    Ok(ours.filter(|line| !line.starts_with("debugfs: ")).map(str::to_owned).collect())
}

/// The two lines that answer `imap`: the inode's number, and its block and offset in bytes.
/// `Inode 14 is part of block group 0`, `\tlocated at block 36, offset 0x0d00`.
fn imap_answer(first: &str, second: &str) -> Option<Inode> {
    let number = first.strip_prefix("Inode ")?.split(' ').next()?.parse().ok()?;
    let place = second.trim().strip_prefix("located at block ")?;
    let (block, offset) = place.split_once(", offset 0x")?;
    let (block, offset) = (block.parse().ok()?, u64::from_str_radix(offset, 16).ok()?);
    Some(Inode { number, block, offset })
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
