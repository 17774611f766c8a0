//! Storing edits in ext2/3/4 with the host's own e2fsprogs, without root.
//!
//! A rewritten file keeps its inode: new bytes go into the blocks that it has or is given, and its
//! length is changed. Owner, mode, times, links and extended attributes therefore stay without
//! being copied. If the number of blocks stays too, which is nearly always the case, no tool writes
//! at all: `debugfs` reads all bitmaps before it changes anything, which takes seconds on a
//! filesystem of terabytes. So `debugfs` only reports locations, and this module writes blocks and
//! inode. The same edits of the same filesystem give the same bytes: no timestamp is set to the
//! current time.

mod inodes;
mod labels;
mod parents;
mod script;
mod superblock;
mod tools;
mod whole;

use super::editor::Editor;
use super::{Change, Edit, FileAccess, FileContent};
use crate::fs::ext4::inode::InodeFormat;
use crate::sandbox::{RunAs, ToolDir};
use crate::{Error, ErrorKind, Result};
use inodes::{Inode, Inodes, MappedBlock, blocks};
use labels::Labels;
use parents::Parents;
use script::{Script, quoted};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use superblock::{format, now};
use tools::{HostFiles, Tools};

/// The editor for ext2, ext3 and ext4.
pub(super) struct E2fs;

impl Editor for E2fs {
    /// If the journal was not replayed, it is replayed first.
    fn apply(&self, edits: &[Edit], partition: &Path) -> Result<()> {
        let mut found = format(partition)?;
        if found.needs_recovery {
            Tools { partition, now: now(&found) }.e2fsck(&["-E", "journal_only", "-p"])?;
            found = format(partition)?;
        }
        let tools = Tools { partition, now: now(&found) };
        let parents = Parents::of(edits);
        let mut wanted: BTreeMap<_, _> = parents.existing.iter().map(|path| (*path, 0)).collect();
        for edit in edits {
            if let Change::Rewrite { old, new } = &edit.change {
                let blocks = kept_blocks(old, new, found.block_size);
                wanted.insert(&edit.path, blocks.unwrap_or(0));
            }
        }
        let inodes = Inodes::find(&tools, &wanted)?;
        let store = Store { partition, format: found, tools, inodes };
        // A file that cannot be created is no reason to leave others as they are.
        let rewritten = store.rewrites(edits);
        store.structure(edits, &parents).and(rewritten)
    }

    fn check_room(&self, edits: &[Edit], partition: &Path) -> Result<()> {
        whole::check_room(edits, partition)
    }

    fn set_uuid(&self, partition: &Path, uuid: &str) -> Result<()> {
        whole::set_uuid(partition, uuid)
    }
}

/// A file to rewrite, and where its inode and blocks are.
struct Rewrite<'a> {
    path: &'a str,
    old: &'a [u8],
    new: &'a [u8],
    inode: Inode,
    blocks: Vec<MappedBlock>,
}

struct Store<'a> {
    partition: &'a Path,
    format: InodeFormat,
    tools: Tools<'a>,
    inodes: Inodes,
}

impl Store<'_> {
    /// Creates and removes files, in one run of debugfs.
    fn structure(&self, edits: &[Edit], parents: &Parents) -> Result<()> {
        if edits.iter().all(|edit| matches!(edit.change, Change::Rewrite { .. })) {
            return Ok(());
        }
        let mut script = Script::default();
        let dir = ToolDir::new()?;
        let labels = Labels::of_parents(edits, parents, &self.inodes, &self.tools, &dir)?;
        let mut copied = Vec::new();
        let mut current = None;
        let wanted = edits.iter().filter(|e| !matches!(e.change, Change::Rewrite { .. }));
        for (number, edit) in wanted.enumerate() {
            let (parent, name) = edit.path.rsplit_once('/').unwrap_or(("", &edit.path));
            if current.replace(parent) != Some(parent) {
                self.enter(&mut script, parents, &edit.path)?;
            }
            // A bare name could look like an option or an inode number.
            let name = quoted(&format!("./{name}"))?;
            match &edit.change {
                Change::Rewrite { .. } => {}
                Change::Remove => script.push(format!("rm {name}"))?,
                Change::Symlink { target } => {
                    script.push(format!("symlink {name} {}", quoted(target)?))?;
                }
                Change::MakeDir(access) => {
                    script.push(format!("mkdir {name}"))?;
                    owned(&mut script, &name, 0o040_000, access)?;
                }
                Change::Create { content, access } => {
                    let from = match content {
                        FileContent::HostFile(path) => path.clone(),
                        FileContent::Bytes(bytes) => {
                            let failed = |e| Error::io("cannot write a temporary file", e);
                            dir.add(&format!("file-{number}"), bytes).map_err(failed)?
                        }
                    };
                    script.push(format!("write {} {name}", quoted(shown(&from)?)?))?;
                    if let FileContent::HostFile(path) = content {
                        copied.push(path.as_path());
                    }
                    owned(&mut script, &name, 0o100_000, access)?;
                }
            }
            if let Some(label) = labels.for_new(edit, parents)? {
                script.push(format!("ea_set -f {label} {name} {}", labels::NAME))?;
            }
        }
        // Only the user who asked for them can read files of this host.
        let run_as = if copied.is_empty() { dir.run_as() } else { RunAs::Caller };
        let temporary = dir.path();
        copied.push(&temporary);
        let files = HostFiles { run_as, paths: copied };
        self.tools.debugfs(&["-w"], &script, &files).map(drop)
    }

    /// Change to the directory of `path`: by number to the nearest one that existed before, from
    /// there by name.
    fn enter(&self, script: &mut Script, parents: &Parents, path: &str) -> Result<()> {
        let above = parents.above(path);
        script.push(format!("cd <{}>", self.inodes.of(above)?.number))?;
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        let below = dir.strip_prefix(above.trim_end_matches('/')).unwrap_or_default();
        for name in below.split('/').filter(|name| !name.is_empty()) {
            script.push(format!("cd {}", quoted(&format!("./{name}"))?))?;
        }
        Ok(())
    }

    /// Rewrites existing files.
    fn rewrites(&self, edits: &[Edit]) -> Result<()> {
        let mut wanted = Vec::new();
        for edit in edits {
            if let Change::Rewrite { old, new } = &edit.change {
                let inode = self.inodes.of(&edit.path)?;
                let blocks = self.inodes.blocks(&edit.path)?.to_vec();
                wanted.push(Rewrite { path: &edit.path, old, new, inode, blocks });
            }
        }
        // Those that keep their blocks need nothing of the filesystem; each of the others stands alone.
        let keeps = |r: &Rewrite| kept_blocks(r.old, r.new, self.format.block_size).is_some();
        let (kept, resized): (Vec<_>, Vec<_>) = wanted.into_iter().partition(keeps);
        let mut done = self.rewrite(kept);
        for one in resized {
            done = self.rewrite(vec![one]).and(done);
        }
        done
    }

    fn rewrite(&self, mut wanted: Vec<Rewrite<'_>>) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        self.resize(&wanted)?;
        self.map(&mut wanted)?;
        let failed = |e| Error::io("cannot write to the guest's filesystem", e);
        let file = File::options().read(true).write(true).open(self.partition).map_err(failed)?;
        let mut mark = Script::default();
        for rewrite in &wanted {
            self.fill(rewrite, &file)?;
            let unwritten = rewrite.blocks.iter().enumerate().filter(|(_, b)| b.unwritten);
            if rewrite.blocks.iter().any(|b| b.unwritten) {
                mark.push(format!("extent_open <{}>", rewrite.inode.number))?;
                for (i, block) in unwritten {
                    mark.push(format!("set_bmap {i} {}", block.number))?;
                }
                mark.push("extent_close")?;
            }
        }
        file.sync_data().map_err(failed)?;
        if !mark.is_empty() {
            drop(file);
            self.tools.debugfs(&["-w"], &mark, &HostFiles::none())?;
        }
        Ok(())
    }

    /// Number of blocks that `bytes` occupy.
    fn blocks_of(&self, bytes: &[u8]) -> u64 {
        count_blocks(bytes, self.format.block_size)
    }

    /// Give files as many blocks as their new contents need.
    fn resize(&self, wanted: &[Rewrite]) -> Result<()> {
        let mut script = Script::default();
        for rewrite in wanted {
            let (has, needs) = (self.blocks_of(rewrite.old), self.blocks_of(rewrite.new));
            let number = rewrite.inode.number;
            match needs {
                _ if needs > has => {
                    script.push(format!("fallocate <{number}> {has} {}", needs - 1))?;
                }
                // An empty file may keep its one block, which does not affect its length.
                _ if needs.max(1) < has => {
                    script.push(format!("punch <{number}> {} {}", needs.max(1), has - 1))?;
                }
                _ => {}
            }
        }
        if script.is_empty() {
            return Ok(());
        }
        self.tools.debugfs(&["-w"], &script, &HostFiles::none()).map(drop)
    }

    /// Find out where the files' blocks are: those that were resized are looked up again.
    fn map(&self, wanted: &mut [Rewrite]) -> Result<()> {
        let resized =
            |r: &&mut Rewrite| kept_blocks(r.old, r.new, self.format.block_size).is_none();
        let mut moved: Vec<&mut Rewrite> = wanted.iter_mut().filter(resized).collect();
        let counts: Vec<(Inode, u64)> =
            moved.iter().map(|r| (r.inode, self.blocks_of(r.new))).collect();
        for (rewrite, blocks) in moved.iter_mut().zip(blocks(&self.tools, &counts)?) {
            rewrite.blocks = blocks;
        }
        for rewrite in wanted {
            let complete = rewrite.blocks.len() as u64 == self.blocks_of(rewrite.new);
            if !complete || rewrite.blocks.iter().any(|b| b.number == 0) {
                return Err(stored_inline(rewrite.path));
            }
        }
        Ok(())
    }

    /// Write a file's new contents and length.
    fn fill(&self, rewrite: &Rewrite, partition: &File) -> Result<()> {
        let failed = |e| Error::io(format!("cannot write {} in the guest", rewrite.path), e);
        let block_size = self.format.block_size;
        let inode_at = rewrite.inode.block * block_size + rewrite.inode.offset;
        let mut inode = vec![0; self.format.inode_size];
        partition.read_exact_at(&mut inode, inode_at).map_err(failed)?;
        if !self.format.is_plain_file(&inode) {
            return Err(stored_inline(rewrite.path));
        }
        for (chunk, block) in rewrite.new.chunks(block_size as usize).zip(&rewrite.blocks) {
            // The rest of the last block is zeroed, as the kernel does.
            let mut bytes = chunk.to_vec();
            bytes.resize(block_size as usize, 0);
            partition.write_all_at(&bytes, block.number * block_size).map_err(failed)?;
        }
        self.format.set_len(&mut inode, rewrite.inode.number, rewrite.new.len() as u64);
        partition.write_all_at(&inode, inode_at).map_err(failed)
    }
}

/// Number of blocks that `bytes` occupy.
fn count_blocks(bytes: &[u8], block_size: u64) -> u64 {
    (bytes.len() as u64).div_ceil(block_size)
}

/// Number of blocks of a file that keeps its blocks when `new` replaces `old`.
fn kept_blocks(old: &[u8], new: &[u8], block_size: u64) -> Option<u64> {
    let count = count_blocks(new, block_size);
    (count == count_blocks(old, block_size)).then_some(count)
}

fn stored_inline(path: &str) -> Error {
    let what = format!("{path} is stored inline and cannot be edited in place");
    Error::new(ErrorKind::Unsupported, what)
}

/// Commands that give `path`, already quoted, its mode and owner.
fn owned(script: &mut Script, path: &str, kind: u32, access: &FileAccess) -> Result<()> {
    script.push(format!("sif {path} mode 0{:o}", kind | access.mode & 0o7777))?;
    script.push(format!("sif {path} uid {}", access.uid))?;
    script.push(format!("sif {path} gid {}", access.gid))
}

/// The name of a file of this host, for debugfs.
fn shown(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        let what =
            format!("the name of {} is not UTF-8, so debugfs cannot be told of it", path.display());
        Error::new(ErrorKind::Unsupported, what)
    })
}
