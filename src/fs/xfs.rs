//! XFS through the `lamxfs` crate. The crate is safe code; it reads versions 4 and 5 and replays
//! the log of version 5 in memory.
//!
//! This module adds what the crate lacks:
//! * symlinks are resolved one component at a time, after their length was checked,
//! * the cost of each access is limited (`metered`),
//! * a log that only the kernel can replay (version 4, or an unfinished mapping change) is ignored:
//!   only what had reached its final location on the disk is visible, and [`XfsFs::caveat`] says
//!   so,
//! * a panic becomes a `Corrupt` error.
//!
//! Case-insensitive filesystems, realtime sections and external logs are refused.

mod inode;
mod log;
mod superblock;

pub use self::log::log_is_dirty;
use self::superblock::Superblock;
use super::budget::{Budget, Cost};
use super::guest_fs::{
    FileKind, GuestFile, GuestFs, KernelMount, Node, Stat, check_target_len, resolve_to,
    target_text,
};
use super::metered::{Meter, Metered, PER_LOOK, PER_OPEN};
use crate::bytes::ReadAt;
use crate::guard::quietly;
use crate::{Error, ErrorKind, Result};
use lamxfs::{Inode, Path, SuperblockReason, Xfs};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// An XFS filesystem. Not `Send`: create it in the thread that uses it. The underlying bytes must
/// not change during its lifetime; create a new one to read changed bytes. It is meant for short
/// inspections: after searching some gigabytes it fails with `TooLarge`.
pub struct XfsFs {
    fs: RefCell<Xfs<Metered>>,
    meter: Rc<Meter>,
    uuid: [u8; 16],
    label: String,
    /// Whether the log was ignored.
    stale: bool,
}

impl XfsFs {
    /// Opens the filesystem that starts at byte 0 of `reader`. A dirty log is replayed in memory if
    /// possible, and otherwise ignored.
    ///
    /// # Errors
    /// `Unsupported` for features that can't be read; `Corrupt` if it is not XFS, is damaged, or is
    /// longer than the image; `Io` from `reader`.
    pub fn open(reader: impl ReadAt + 'static) -> Result<Self> {
        Self::open_within(reader, Budget::new())
    }

    /// Like [`open`](Self::open), with a `budget` shared with other readers of the same guest.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_within(reader: impl ReadAt + 'static, budget: Budget) -> Result<Self> {
        let reader: Arc<dyn ReadAt> = Arc::new(reader);
        let superblock = Superblock::read(&*reader)?;
        let meter = Meter::new(budget);
        let open = |blank: Range<u64>| {
            meter.begin(PER_OPEN);
            let size = reader.len();
            let (reader, meter) = (reader.clone(), Rc::clone(&meter));
            let metered = Metered { reader, meter, blank, checksums: None };
            quietly(|| Xfs::open(metered, size))
        };
        let mut opened = open(0..0);
        let unreplayable = |e: &lamxfs::Error| {
            matches!(e, lamxfs::Error::BadSuperblock(SuperblockReason::DirtyLog))
        };
        // A log of zeros was never written to and contains nothing.
        let stale = matches!(&opened, Ok(Err(e)) if unreplayable(e)) && !superblock.log.is_empty();
        if stale {
            opened = open(superblock.log.clone());
        }
        let fs = meter.finish(opened, "the filesystem", convert)?;
        Ok(Self {
            fs: RefCell::new(fs),
            meter,
            uuid: superblock.uuid,
            label: superblock.label,
            stale,
        })
    }

    /// The filesystem's UUID, as its 16 bytes.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The volume label, empty if it has none.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Calls the crate about `what`, which may read at most `allowance` bytes.
    fn ask<T>(
        &self,
        what: &str,
        allowance: u64,
        f: impl FnOnce(&mut Xfs<Metered>) -> std::result::Result<T, lamxfs::Error>,
    ) -> Result<T> {
        self.meter.begin(allowance);
        self.meter.finish(quietly(|| f(&mut self.fs.borrow_mut())), what, convert)
    }
}

impl GuestFs for XfsFs {
    fn node(&self, path: &str, _searched: u64) -> Result<Node> {
        let at = Path::new(path.as_bytes());
        let (inode, meta) = self.ask(path, PER_LOOK, |fs| {
            let inode = fs.resolve(at)?;
            Ok((inode, fs.metadata(&inode)?))
        })?;
        // `lamxfs` returns no times. The last thing it read is the inode as it is on the disk,
        // without newer times that are only in the journal.
        let (mtime_secs, mtime_nanos) =
            inode::modified(&self.meter.last_read(), inode.ino).unwrap_or_default();
        let len = meta.size();
        let (kind, target) = if meta.is_symlink() {
            check_target_len(path, len)?;
            let target = self.ask(path, PER_LOOK, |fs| fs.read_link(at))?;
            (FileKind::Symlink, Some(target_text(path, target)?))
        } else if meta.is_dir() {
            (FileKind::Dir, None)
        } else if meta.is_file() {
            (FileKind::File, None)
        } else {
            (FileKind::Other, None)
        };
        let stat = Stat { kind, len, mtime_secs, mtime_nanos, revision: inode.ino };
        Ok(Node { stat, target })
    }

    fn read_dir(&self, path: &str) -> Result<Vec<String>> {
        let (full, _) = resolve_to(self, path, FileKind::Dir)?;
        let entries = self.ask(path, PER_LOOK, |fs| fs.read_dir(Path::new(full.as_bytes())))?;
        let names = entries.into_iter().filter_map(|e| String::from_utf8(e.name).ok());
        let mut names: Vec<String> = names.filter(|n| n != "." && n != "..").collect();
        self.budget().charge_for(path, Cost::Names, names.len() as u64)?;
        names.sort();
        Ok(names)
    }

    fn budget(&self) -> &Budget {
        self.meter.budget()
    }

    fn open(&self, path: &str) -> Result<Box<dyn GuestFile + '_>> {
        let (full, stat) = resolve_to(self, path, FileKind::File)?;
        let inode = self.ask(path, PER_LOOK, |fs| fs.resolve(Path::new(full.as_bytes())))?;
        Ok(Box::new(XfsFile { fs: self, inode, len: stat.len, path: full }))
    }

    fn kernel_mount(&self) -> Option<KernelMount> {
        // The host may have a filesystem with the same UUID mounted: another copy of this guest.
        Some(KernelMount { fs_type: "xfs", options: "nouuid".into() })
    }

    fn caveat(&self) -> Option<String> {
        self.stale.then(|| {
            "the guest was not shut down and only Linux can replay its XFS journal, so what was \
             read in it may be a little older than what it last wrote"
                .into()
        })
    }
}

struct XfsFile<'a> {
    fs: &'a XfsFs,
    inode: Inode,
    len: u64,
    path: String,
}

impl GuestFile for XfsFile<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize> {
        if offset >= self.len {
            return Ok(0);
        }
        let inode = self.inode;
        let allowance = PER_LOOK.saturating_add(buf.len() as u64);
        let n = self.fs.ask(&self.path, allowance, |fs| fs.read_file_at(&inode, offset, buf))?;
        self.fs.meter.refund(n as u64);
        Ok(n)
    }
}

fn convert(what: &str, e: &lamxfs::Error) -> Error {
    use lamxfs::Error as E;
    let message = |kind, text: &str| Error::new(kind, format!("{what} in the guest {text}"));
    let unsupported = |text: &str| message(ErrorKind::Unsupported, text);
    match e {
        E::NotFound { .. } => Error::new(ErrorKind::NotFound, format!("{what} does not exist")),
        E::NotARegularFile => message(ErrorKind::Invalid, "is not a regular file"),
        E::NotASymlink => message(ErrorKind::Invalid, "is not a symlink"),
        E::FileTooLarge { .. } => message(ErrorKind::TooLarge, "is too large"),
        E::UnsupportedFeature(feature) => unsupported(&format!(
            "cannot be read: XFS with a feature that is not known ({feature})"
        )),
        E::BadSuperblock(SuperblockReason::UnsupportedVersion) => {
            unsupported("cannot be read: XFS older than version 4")
        }
        E::BadSuperblock(SuperblockReason::ExternalLog) => {
            unsupported("cannot be read: its XFS journal is on another device")
        }
        E::BadSuperblock(SuperblockReason::RealtimeDevice) => {
            unsupported("cannot be read: XFS with a realtime section")
        }
        E::BadSuperblock(SuperblockReason::DirtyLog) => {
            unsupported("cannot be read: XFS that needs xfs_repair")
        }
        other => Error::new(
            ErrorKind::Corrupt,
            format!("cannot read {what} in the guest: damaged XFS ({})", other.token()),
        ),
    }
}
