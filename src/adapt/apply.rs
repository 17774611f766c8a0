//! Storing edits in an ext2/3/4 filesystem with the host's own e2fsprogs.
//!
//! The file keeps its inode: new bytes go into the blocks that it has, and only its length is
//! changed. So owner, mode, times, links and extended attributes stay without being copied.

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
/// [`ErrorKind::NotFound`] without e2fsprogs; [`ErrorKind::TooLarge`] for a file that outgrows its
/// blocks; [`ErrorKind::Io`] with what the tools say. Edits before the one that failed stay.
pub fn apply(edits: &[Edit], partition: &Path) -> Result<()> {
    if edits.is_empty() {
        return Ok(());
    }
    // It does nothing to a clean filesystem.
    tool("e2fsck", &["-E", "journal_only", "-p"], partition, "")?;
    let block_size = block_size(partition)?;
    for edit in edits {
        store(edit, partition, block_size)?;
    }
    Ok(())
}

fn store(edit: &Edit, partition: &Path, block_size: u64) -> Result<()> {
    let path = quoted(&edit.path)?;
    let has = (edit.old.len() as u64).div_ceil(block_size);
    let needs = (edit.new.len() as u64).div_ceil(block_size);
    if needs > has || needs == 0 {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("{} would outgrow its blocks in the guest's filesystem", edit.path),
        ));
    }
    let asked: String = (0..needs).map(|i| format!("bmap {path} {i}\n")).collect();
    let said = tool("debugfs", &["-f", "/dev/stdin"], partition, &asked)?;
    let text = String::from_utf8_lossy(&said.stdout);
    // Each answer stands on a line of its own, behind an echo of the command.
    let blocks: Vec<u64> = text
        .lines()
        .filter(|line| !line.starts_with("debugfs"))
        .filter_map(|line| line.trim().parse().ok())
        .collect();
    if blocks.len() as u64 != needs || blocks.contains(&0) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{} lies in no plain blocks in the guest's filesystem", edit.path),
        ));
    }
    let failed = |e| Error::io(format!("cannot write {} in the guest", edit.path), e);
    let file = File::options().write(true).open(partition).map_err(failed)?;
    for (chunk, block) in edit.new.chunks(block_size as usize).zip(blocks) {
        // As the kernel does, zeros behind the end of the file.
        let mut bytes = chunk.to_vec();
        bytes.resize(block_size as usize, 0);
        file.write_all_at(&bytes, block * block_size).map_err(failed)?;
    }
    file.sync_data().map_err(failed)?;
    drop(file);
    let length = format!("sif {path} size {}\n", edit.new.len());
    tool("debugfs", &["-w", "-f", "/dev/stdin"], partition, &length)?;
    Ok(())
}

/// Bytes per block, from the superblock.
fn block_size(partition: &Path) -> Result<u64> {
    let mut log = [0; 4];
    File::open(partition)
        .and_then(|f| f.read_exact_at(&mut log, 1024 + 24))
        .map_err(|e| Error::io("cannot read the guest's superblock", e))?;
    let log = u32::from_le_bytes(log);
    // The kernel takes 1 KiB to 64 KiB.
    if log > 6 {
        return Err(Error::new(ErrorKind::Corrupt, "the guest's block size cannot be"));
    }
    Ok(1024 << log)
}

/// A path as debugfs takes it.
fn quoted(path: &str) -> Result<String> {
    if path.chars().any(|c| c == '"' || c == '\\' || c.is_control()) {
        return Err(Error::new(ErrorKind::Unsupported, "a file name with quotes"));
    }
    Ok(format!("\"{path}\""))
}

/// Run a tool of e2fsprogs on `partition`, with `input` on its standard input.
fn tool(name: &str, args: &[&str], partition: &Path, input: &str) -> Result<Output> {
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
        // Commands are a few lines: the pipe holds them all.
        stdin.write_all(input.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    // e2fsck says 1 when it has mended something, as it was asked to.
    if !matches!(output.status.code(), Some(0 | 1)) {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().last().unwrap_or_default().trim();
        return Err(Error::new(ErrorKind::Io, format!("{name} failed: {said}")));
    }
    Ok(output)
}
