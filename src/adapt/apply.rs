//! Storing edits in an ext2/3/4 filesystem with the host's own e2fsprogs.
//!
//! The file keeps its inode: new bytes go into the blocks that it has, or that it is given, and its
//! length is changed. So owner, mode, times, links and extended attributes stay without being copied.
//! The same edit of the same filesystem gives the same bytes: nothing is stamped with today's time.

use super::Edit;
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Store `edits` in the filesystem in `partition`, which nobody has mounted. A journal that was not
/// replayed is replayed first.
///
/// # Errors
/// [`ErrorKind::NotFound`] without e2fsprogs; [`ErrorKind::Unsupported`] for a file that has no
/// blocks of its own; [`ErrorKind::Io`] with what the tools say. Edits before the one that failed
/// stay.
pub fn apply(edits: &[Edit], partition: &Path) -> Result<()> {
    if edits.is_empty() {
        return Ok(());
    }
    let superblock = Superblock::read(partition)?;
    // It does nothing to a clean filesystem.
    tool("e2fsck", &["-E", "journal_only", "-p"], partition, "", superblock.written)?;
    for edit in edits {
        store(edit, partition, &superblock)?;
    }
    Ok(())
}

/// What of the superblock matters here (kernel: fs/ext4/ext4.h, `struct ext4_super_block`).
struct Superblock {
    /// Bytes per block.
    block_size: u64,
    /// When the filesystem was last written to, in seconds of Unix time: the present, as far as
    /// our edits are concerned.
    written: u64,
}

impl Superblock {
    fn read(partition: &Path) -> Result<Self> {
        let mut bytes = [0; 1024];
        File::open(partition)
            .and_then(|f| f.read_exact_at(&mut bytes, 1024))
            .map_err(|e| Error::io("cannot read the guest's superblock", e))?;
        let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        let log = number(24);
        // The kernel takes 1 KiB to 64 KiB.
        if log > 6 {
            return Err(Error::new(ErrorKind::Corrupt, "the guest's block size cannot be"));
        }
        // The tools take 0 for "now".
        let written = u64::from(number(48)).max(1);
        Ok(Self { block_size: 1024 << log, written })
    }
}

fn store(edit: &Edit, partition: &Path, superblock: &Superblock) -> Result<()> {
    let path = quoted(&edit.path)?;
    let block_size = superblock.block_size;
    let has = (edit.old.len() as u64).div_ceil(block_size);
    let needs = (edit.new.len() as u64).div_ceil(block_size);
    let debugfs = |args: &[&str], commands: &str| {
        let args = [args, &["-f", "/dev/stdin"]].concat();
        let commands = format!("set_current_time @{}\n{commands}", superblock.written);
        tool("debugfs", &args, partition, &commands, superblock.written)
    };
    if needs > has {
        debugfs(&["-w"], &format!("fallocate {path} {has} {}\n", needs - 1))?;
    }
    let asked: String = (0..needs).map(|i| format!("bmap {path} {i}\n")).collect();
    // -c leaves the bitmaps unread, which on a large filesystem is most of the work.
    let blocks = mapped_blocks(&debugfs(&["-c"], &asked)?);
    if blocks.len() as u64 != needs || blocks.iter().any(|b| b.number == 0) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{} lies in no plain blocks in the guest's filesystem", edit.path),
        ));
    }
    let failed = |e| Error::io(format!("cannot write {} in the guest", edit.path), e);
    let file = File::options().write(true).open(partition).map_err(failed)?;
    for (chunk, block) in edit.new.chunks(block_size as usize).zip(&blocks) {
        // As the kernel does, zeros behind the end of the file.
        let mut bytes = chunk.to_vec();
        bytes.resize(block_size as usize, 0);
        file.write_all_at(&bytes, block.number * block_size).map_err(failed)?;
    }
    file.sync_data().map_err(failed)?;
    drop(file);
    let mut commands = String::new();
    if blocks.iter().any(|b| b.unwritten) {
        commands.push_str(&format!("extent_open {path}\n"));
        for (i, block) in blocks.iter().enumerate().filter(|(_, b)| b.unwritten) {
            commands.push_str(&format!("set_bmap {i} {}\n", block.number));
        }
        commands.push_str("extent_close\n");
    }
    commands.push_str(&format!("sif {path} size {}\n", edit.new.len()));
    debugfs(&["-w"], &commands)?;
    Ok(())
}

/// A block of a file.
struct MappedBlock {
    /// Where it is, counted from the start of the filesystem; 0 if nowhere.
    number: u64,
    /// It is the file's, but reads as zeros until it is marked as written.
    unwritten: bool,
}

/// The answers to `bmap`, each on a line of its own behind an echo of the command: `1174`, or
/// `1174 (uninit)`.
fn mapped_blocks(output: &Output) -> Vec<MappedBlock> {
    let text = String::from_utf8_lossy(&output.stdout);
    let block = |line: &str| {
        let (number, unwritten) = match line.split_once(' ') {
            None => (line, false),
            Some((number, "(uninit)")) => (number, true),
            Some(_) => return None,
        };
        Some(MappedBlock { number: number.parse().ok()?, unwritten })
    };
    text.lines().filter_map(|line| block(line.trim())).collect()
}

/// A path as debugfs takes it.
fn quoted(path: &str) -> Result<String> {
    if path.chars().any(|c| c == '"' || c == '\\' || c.is_control()) {
        return Err(Error::new(ErrorKind::Unsupported, "a file name with quotes"));
    }
    Ok(format!("\"{path}\""))
}

/// Run a tool of e2fsprogs on `partition`, with `input` on its standard input; it is to take `now`
/// for the time.
fn tool(name: &str, args: &[&str], partition: &Path, input: &str, now: u64) -> Result<Output> {
    let failed = |e| Error::io(format!("cannot run {name}"), e);
    // A plain user's PATH often leaves out the directories that these live in.
    let found = ["/usr/sbin", "/sbin", "/usr/local/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists());
    let mut child = Command::new(found.unwrap_or_else(|| name.into()))
        .args(args)
        .arg(partition)
        .env("LC_ALL", "C")
        .env("E2FSCK_TIME", now.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::new(
                ErrorKind::NotFound,
                format!("editing the guest needs {name}; install the package e2fsprogs"),
            ),
            _ => failed(e),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // At most a line for each of 128 blocks: the pipe holds them all.
        stdin.write_all(input.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    // e2fsck says 1 when it has mended something, as it was asked to; debugfs says 0 even when a
    // command has failed.
    let complaint = complaint(&output);
    let failed = match name {
        "debugfs" => !output.status.success() || complaint.is_some(),
        _ => !matches!(output.status.code(), Some(0 | 1)),
    };
    if failed {
        let what = format!("{name} failed: {}", complaint.as_deref().unwrap_or("it says nothing"));
        return Err(Error::new(ErrorKind::Io, what));
    }
    Ok(output)
}

/// The first line on standard error, behind the one that says the tool's version.
fn complaint(output: &Output) -> Option<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_version = |line: &&str| line.ends_with(')') && line.contains(" 1.");
    lines.find(|line| !is_version(line)).map(str::to_owned)
}
