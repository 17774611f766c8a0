//! ext2/3/4 through the `ext4-view` crate, hardened against hostile images.
//!
//! The crate is safe code but trusts some numbers: it reserves memory for as many block groups and
//! as long a symlink as the image claims, walks extent trees whose nodes all point at each other's
//! children, and panics on some broken directory hashes. Therefore
//! * the superblock is checked before the crate sees it (`superblock`),
//! * symlinks are resolved here, one component at a time, after their length was checked,
//! * files longer than [`MAX_FILE_BYTES`] are not opened,
//! * directories larger than [`MAX_DIR_BYTES`] are refused,
//! * a dirty journal is replayed here (`journal`),
//! * interior extent nodes deeper than in any sane file are made unreadable (`Adapter`),
//! * a panic becomes a `Corrupt` error,
//! * what the crate cannot read is read by a reader of our own (`plain`).

mod adapter;
mod crc;
mod fields;
pub mod inode;
mod journal;
mod limits;
mod plain;
pub mod room;
mod superblock;

pub use self::limits::MAX_DIR_BYTES;

use ext4_view::{Ext4, Ext4Error, FileType};

use self::adapter::Adapter;
use self::journal::Replay;
use self::limits::{MAX_DIR_ENTRIES, too_many};
use self::plain::PlainExt;
use self::superblock::Superblock;
use super::budget::{Budget, Cost};
use super::guest_fs::{FileKind, GuestFile, GuestFs, Node, Stat, check_target_len, resolve_to};
use crate::bytes::ReadAt;
use crate::guard::quietly;
use crate::{Error, ErrorKind, Result};

/// Longest file that is read, in bytes: `ext4-view` walks over all blocks before a position, and the
/// length of a hostile file is any number.
pub const MAX_FILE_BYTES: u64 = 16 << 30;
/// An ext2, ext3 or ext4 filesystem. Not `Send`: create it in the thread that uses it. The
/// underlying bytes must not change during its lifetime; create a new one to read changed bytes. It
/// is meant for short inspections: after searching some gigabytes of directories it fails with
/// `TooLarge`.
pub struct Ext4Fs {
    reader: Reader,
    /// Whether the journal must be replayed and is not on this partition.
    external_journal: bool,
    uuid: [u8; 16],
    label: String,
    budget: Budget,
}

/// What reads a filesystem.
enum Reader {
    View(Ext4),
    /// For what `ext4-view` cannot read.
    Plain(Box<PlainExt>),
}

impl Ext4Fs {
    /// Opens the filesystem that starts at byte 0 of `reader`. A dirty journal is replayed in
    /// memory.
    ///
    /// # Errors
    /// `Unsupported` names the filesystem features that can't be read; `Corrupt` if it is not
    /// ext2/3/4, is damaged, or is longer than the image; `Io` from `reader`.
    pub fn open(reader: impl ReadAt + 'static) -> Result<Self> {
        Self::open_within(reader, Budget::new())
    }

    /// Like [`open`](Self::open), with a `budget` shared with other readers of the same guest.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_within(reader: impl ReadAt + 'static, budget: Budget) -> Result<Self> {
        let mut sb = Superblock::read(&reader)?;
        let external_journal = sb.needs_recovery && sb.journal_inode == 0;
        let needs_recovery = sb.needs_recovery && !external_journal;
        let replay =
            if needs_recovery { journal::load(&reader, &sb, &budget)? } else { Replay::new() };
        let adapter = Adapter {
            reader: Box::new(reader),
            replay,
            needs_recovery,
            block_size: sb.block_size as usize,
            blocks_count: sb.blocks_count,
            window: Vec::new(),
            window_start: 0,
        };
        let (mut raw, size) = ([0; superblock::LEN], adapter.reader.len());
        adapter
            .fill(superblock::OFFSET, &mut raw)
            .map_err(|e| Error::io("cannot read the filesystem's superblock", e))?;
        if needs_recovery {
            // The journal may hold another superblock, which is just as untrusted.
            let new = Superblock::parse(&raw, size)?;
            if new.block_size != sb.block_size {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "the filesystem's journal changes its block size",
                ));
            }
            sb = new;
        }
        let reader = match plain::is_needed(&raw) {
            true => Reader::Plain(Box::new(PlainExt::new(adapter, &raw, budget.clone())?)),
            false => Reader::View(guarded("the filesystem", || Ext4::load(Box::new(adapter)))?),
        };
        Ok(Self { uuid: sb.uuid, label: sb.label, reader, external_journal, budget })
    }

    /// The filesystem's UUID, as its 16 bytes.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The volume label, empty if it has none.
    pub fn label(&self) -> &str {
        &self.label
    }
}

impl GuestFs for Ext4Fs {
    fn node(&self, path: &str, searched: u64) -> Result<Node> {
        self.budget.charge_for(path, Cost::SearchedBytes, searched)?;
        let fs = match &self.reader {
            Reader::View(fs) => fs,
            Reader::Plain(fs) => return fs.node(path).map(|(stat, target)| Node { stat, target }),
        };
        let meta = guarded(path, || fs.symlink_metadata(path))?;
        let kind = match meta.file_type() {
            FileType::Regular => FileKind::File,
            FileType::Directory => FileKind::Dir,
            FileType::Symlink => FileKind::Symlink,
            _ => FileKind::Other,
        };
        let len = meta.len();
        if kind == FileKind::Dir && len > MAX_DIR_BYTES {
            return Err(too_many(path));
        }
        let target = if kind == FileKind::Symlink {
            check_target_len(path, len)?;
            let target = guarded(path, || fs.read_link(path))?;
            let target = target.to_str().map_err(|_| {
                Error::new(ErrorKind::Unsupported, format!("symlink {path} is not UTF-8"))
            })?;
            Some(target.to_owned())
        } else {
            None
        };
        let mtime = meta.modified();
        let (mtime_secs, mtime_nanos) = (mtime.seconds(), mtime.nanoseconds());
        Ok(Node { stat: Stat { kind, len, mtime_secs, mtime_nanos, revision: 0 }, target })
    }

    fn read_dir(&self, path: &str) -> Result<Vec<String>> {
        let (full, stat) = resolve_to(self, path, FileKind::Dir)?;
        self.budget.charge_for(path, Cost::SearchedBytes, stat.len)?;
        let names = |fs: &Ext4| {
            let mut names = Vec::new();
            for entry in fs.read_dir(full.as_str())? {
                let entry = entry?;
                match entry.file_name().as_str() {
                    Ok("." | "..") | Err(_) => {}
                    Ok(name) => names.push(name.to_owned()),
                }
                if names.len() > MAX_DIR_ENTRIES {
                    break;
                }
            }
            Ok(names)
        };
        let mut names = match &self.reader {
            Reader::View(fs) => guarded(path, || names(fs))?,
            Reader::Plain(fs) => fs.list(&full)?,
        };
        if names.len() > MAX_DIR_ENTRIES {
            return Err(too_many(path));
        }
        self.budget.charge_for(path, Cost::Names, names.len() as u64)?;
        names.sort();
        Ok(names)
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn open(&self, path: &str) -> Result<Box<dyn GuestFile + '_>> {
        let (full, stat) = resolve_to(self, path, FileKind::File)?;
        if stat.len > MAX_FILE_BYTES {
            let what = format!("{path} in the guest is longer than 16 GiB");
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        Ok(match &self.reader {
            Reader::View(fs) => {
                let file = guarded(path, || fs.open(full.as_str()))?;
                Box::new(Ext4File { file, len: stat.len, path: full })
            }
            Reader::Plain(fs) => Box::new(fs.open(&full)?),
        })
    }

    fn caveat(&self) -> Option<String> {
        let what = "the filesystem's journal is on another device, and was not replayed: what was read \
                    may be older than what the guest last wrote";
        self.external_journal.then(|| what.to_owned())
    }
}

struct Ext4File {
    file: ext4_view::File,
    len: u64,
    path: String,
}

impl GuestFile for Ext4File {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize> {
        if offset >= self.len {
            return Ok(0);
        }
        let file = &mut self.file;
        guarded(&self.path, || {
            if file.position() != offset {
                file.seek_to(offset)?;
            }
            let mut done = 0;
            while done < buf.len() {
                match file.read_bytes(&mut buf[done..])? {
                    0 => break,
                    n => done += n,
                }
            }
            Ok(done)
        })
    }
}

/// Calls into `ext4-view` and converts its errors and panics to ours. `what` is the path or object
/// that is accessed.
fn guarded<T>(what: &str, f: impl FnOnce() -> std::result::Result<T, Ext4Error>) -> Result<T> {
    match quietly(f) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(convert(what, e)),
        Err(panic) => Err(Error::with_source(
            ErrorKind::Corrupt,
            format!("cannot read {what} in the guest"),
            panic,
        )),
    }
}

fn convert(what: &str, e: Ext4Error) -> Error {
    let message = |kind, text: &str| Error::new(kind, format!("{what} in the guest {text}"));
    match e {
        Ext4Error::NotFound | Ext4Error::NotADirectory => {
            Error::new(ErrorKind::NotFound, format!("{what} does not exist"))
        }
        Ext4Error::Io(e) => Error::with_source(
            ErrorKind::Io,
            format!("cannot read {what} in the guest: reading the image failed"),
            e,
        ),
        Ext4Error::IsADirectory => message(ErrorKind::Invalid, "is a directory"),
        Ext4Error::IsASpecialFile => message(ErrorKind::Invalid, "is not a regular file"),
        Ext4Error::Encrypted => message(ErrorKind::Unsupported, "is encrypted"),
        Ext4Error::Incompatible(i) => Error::new(
            ErrorKind::Unsupported,
            format!("cannot read {what} in the guest: ext4 with {i}"),
        ),
        Ext4Error::Corrupt(c) => Error::new(
            ErrorKind::Corrupt,
            format!("cannot read {what} in the guest: damaged ext4: {c}"),
        ),
        other => message(ErrorKind::Invalid, &format!("cannot be read: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_errors() {
        let e = guarded::<()>("/x", || panic!("index out of bounds")).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt);
        assert!(e.to_string().contains("index out of bounds"), "{e}");
    }

    #[test]
    fn only_deep_nodes_are_hidden() {
        let adapter = |_| Adapter {
            reader: Box::new(Vec::new()),
            replay: Replay::new(),
            needs_recovery: false,
            block_size: 1024,
            blocks_count: 1000,
            window: Vec::new(),
            window_start: 0,
        };
        let node = |depth: u8, leaf: u8| {
            let mut b = vec![0u8; 1024];
            b[..8].copy_from_slice(&[0x0a, 0xf3, 3, 0, 84, 0, depth, 0]);
            b[16] = leaf;
            b
        };
        for (depth, want) in [(0, false), (1, false), (2, true), (5, true), (6, false)] {
            assert_eq!(adapter(()).is_deep_extent_node(&node(depth, 9)), want, "{depth}");
        }
        let mut far = node(3, 9);
        far[19] = 1;
        assert!(!adapter(()).is_deep_extent_node(&far));
    }
}
