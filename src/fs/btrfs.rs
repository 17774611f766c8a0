//! Btrfs on one device through the `lambutter` crate. The crate is safe code; it reads the single,
//! DUP and RAID1 profiles, subvolumes, and extents compressed with zlib, LZO and zstd.
//!
//! The reader presents the subvolume that holds the guest's root: the default one or, if that has
//! no `/etc`, the one at the top level that does (`@`, `@rootfs`, `root`, …). GRUB's paths start at
//! the top level, so `/@/boot/vmlinuz` is also found in `@`.
//!
//! The log of changes that were fsynced after the last transaction is not replayed. The filesystem
//! therefore appears as of that transaction, at most some 30 s earlier. As for XFS, the cost of
//! each access is limited (`metered`), and a panic becomes a `Corrupt` error.

mod leaf;

use super::btrfs_sums::Checksums;
use super::budget::{Budget, Cost};
use super::guest_fs::{
    FileKind, GuestFile, GuestFs, KernelMount, Node, Stat, check_target_len, resolve_to,
    target_text,
};
use super::metered::{Meter, Metered, PER_LOOK, PER_OPEN};
use crate::bytes::ReadAt;
use crate::guard::quietly;
use crate::{Error, ErrorKind, Result};
use lambutter::{Btrfs, Inode, Path, SuperblockReason};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// Where the superblock starts, in bytes.
const SUPERBLOCK: u64 = 64 << 10;
/// The subvolume that has no parent (kernel: `BTRFS_FS_TREE_OBJECTID`).
const TOP_LEVEL: u64 = 5;
/// What installers call the subvolume of the root filesystem: Debian, Ubuntu and Arch, Fedora.
const ROOT_NAMES: [&str; 4] = ["@rootfs", "@", "root", "@root"];

/// A Btrfs filesystem, seen from the guest's root subvolume. Not `Send`: create it in the thread
/// that uses it. The underlying bytes must not change during its lifetime; create a new one to read
/// changed bytes. After searching some gigabytes it fails with `TooLarge`.
pub struct BtrfsFs {
    fs: RefCell<Btrfs<Metered>>,
    meter: Rc<Meter>,
    /// Name of the presented subvolume, if it is not the default one.
    subvolume: Option<String>,
    /// Whether there is a log that was not replayed.
    stale: bool,
}

impl BtrfsFs {
    /// Opens the filesystem that starts at byte 0 of `reader`.
    ///
    /// # Errors
    /// `Unsupported` for features, profiles and checksums that can't be read and for filesystems on
    /// several devices; `Corrupt` if it is not Btrfs or is damaged; `Io` from `reader`.
    pub fn open(reader: impl ReadAt + 'static) -> Result<Self> {
        Self::open_within(reader, Budget::new())
    }

    /// Like [`open`](Self::open), with a `budget` shared with other readers of the same guest.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_within(reader: impl ReadAt + 'static, budget: Budget) -> Result<Self> {
        let reader: Arc<dyn ReadAt> = Arc::new(reader);
        let stale = log_root(&*reader)? != 0;
        let meter = Meter::new(budget);
        let size = reader.len();
        let checksums = Checksums::of(&*reader)?;
        let metered = Metered { reader, meter: Rc::clone(&meter), blank: 0..0, checksums };
        let what = "the filesystem";
        let ask = |f: &dyn Fn(Metered) -> lambutter::Result<Btrfs<Metered>>| {
            meter.begin(PER_OPEN);
            meter.finish(quietly(|| f(metered.clone())), what, convert)
        };
        let mut fs = ask(&|m| Btrfs::open(m, size))?;
        let mut subvolume = None;
        meter.begin(PER_LOOK);
        if !quietly(|| has_etc(&mut fs, "")).unwrap_or(false) {
            let mut top = ask(&|m| Btrfs::open_subvol_id(m, size, TOP_LEVEL))?;
            meter.begin(PER_LOOK);
            subvolume = quietly(|| root_subvolume(&mut top)).unwrap_or(None);
        }
        if let Some(name) = &subvolume {
            let path = format!("/{name}");
            fs = ask(&|m| Btrfs::open_subvol_path(m, size, Path::from(path.as_str())))?;
        }
        Ok(Self { fs: RefCell::new(fs), meter, subvolume, stale })
    }

    /// Name of the presented top-level subvolume, if it is not the default one.
    pub fn subvolume(&self) -> Option<&str> {
        self.subvolume.as_deref()
    }

    /// Calls the crate about `what`, which may read at most `allowance` bytes.
    fn ask<T>(
        &self,
        what: &str,
        allowance: u64,
        f: impl FnOnce(&mut Btrfs<Metered>) -> lambutter::Result<T>,
    ) -> Result<T> {
        self.meter.begin(allowance);
        self.meter.finish(quietly(|| f(&mut self.fs.borrow_mut())), what, convert)
    }

    /// The path within the subvolume that GRUB means by `path`, if it can be a different one.
    fn below_top<'a>(&self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix('/')?.strip_prefix(self.subvolume.as_deref()?)?;
        if rest.is_empty() { Some("/") } else { rest.starts_with('/').then_some(rest) }
    }

    /// Calls `f` with `path` and, if that does not exist, with the path that GRUB means by it.
    fn either<T>(&self, path: &str, f: impl Fn(&str) -> Result<T>) -> Result<T> {
        match (f(path), self.below_top(path)) {
            (Err(e), Some(path)) if e.kind() == ErrorKind::NotFound => f(path).map_err(|_| e),
            (result, _) => result,
        }
    }

    fn inode(&self, path: &str) -> Result<Inode> {
        self.either(path, |p| self.ask(p, PER_LOOK, |fs| fs.resolve(Path::from(p))))
    }
}

impl GuestFs for BtrfsFs {
    fn node(&self, path: &str, _searched: u64) -> Result<Node> {
        let inode = self.inode(path)?;
        let meta = self.ask(path, PER_LOOK, |fs| fs.metadata(&inode))?;
        // `lambutter` returns no times. The last leaf it read is the one with the inode.
        let times = leaf::times(&self.meter.last_read(), inode.objectid()).unwrap_or_default();
        let (mtime_secs, mtime_nanos) = times.modified;
        let len = meta.size;
        let (kind, target) = if meta.is_symlink() {
            check_target_len(path, len)?;
            let target =
                self.either(path, |p| self.ask(p, PER_LOOK, |fs| fs.read_link(Path::from(p))))?;
            (FileKind::Symlink, Some(target_text(path, target)?))
        } else if meta.is_dir() {
            (FileKind::Dir, None)
        } else if meta.is_file() {
            (FileKind::File, None)
        } else {
            (FileKind::Other, None)
        };
        let revision = times.transaction;
        Ok(Node { stat: Stat { kind, len, mtime_secs, mtime_nanos, revision }, target })
    }

    fn read_dir(&self, path: &str) -> Result<Vec<String>> {
        let (full, _) = resolve_to(self, path, FileKind::Dir)?;
        let entries =
            self.either(&full, |p| self.ask(p, PER_LOOK, |fs| fs.read_dir(Path::from(p))))?;
        let mut names: Vec<String> =
            entries.into_iter().filter_map(|e| String::from_utf8(e.name).ok()).collect();
        self.budget().charge_for(path, Cost::Names, names.len() as u64)?;
        names.sort();
        Ok(names)
    }

    fn budget(&self) -> &Budget {
        self.meter.budget()
    }

    fn open(&self, path: &str) -> Result<Box<dyn GuestFile + '_>> {
        let (full, stat) = resolve_to(self, path, FileKind::File)?;
        let inode = self.inode(&full)?;
        Ok(Box::new(BtrfsFile { fs: self, inode, len: stat.len, path: full }))
    }

    fn kernel_mount(&self) -> Option<KernelMount> {
        // The name contains no comma: `root_subvolume` skips names that do.
        let options = self.subvolume.as_ref().map(|name| format!("subvol=/{name}"));
        Some(KernelMount { fs_type: "btrfs", options: options.unwrap_or_default() })
    }

    fn caveat(&self) -> Option<String> {
        self.stale.then(|| {
            "the guest was not shut down and only Linux can replay its Btrfs log, so what was read \
             in it may be some seconds older than what it last wrote"
                .into()
        })
    }
}

struct BtrfsFile<'a> {
    fs: &'a BtrfsFs,
    inode: Inode,
    len: u64,
    path: String,
}

impl GuestFile for BtrfsFile<'_> {
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

/// Where the log of fsynced changes starts; 0 if there is none.
fn log_root(reader: &dyn ReadAt) -> Result<u64> {
    if reader.len() < SUPERBLOCK + 4096 {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "the image is too small to hold a Btrfs filesystem",
        ));
    }
    let mut raw = [0; 8];
    reader
        .read_at(&mut raw, SUPERBLOCK + 96)
        .map_err(|e| Error::io("cannot read the filesystem's superblock", e))?;
    Ok(u64::from_le_bytes(raw))
}

fn has_etc(fs: &mut Btrfs<Metered>, below: &str) -> bool {
    fs.resolve(Path::from(format!("{below}/etc").as_str())).is_ok()
}

/// The top-level subvolume that holds a root filesystem: one with a usual name, or else the only
/// candidate.
fn root_subvolume(top: &mut Btrfs<Metered>) -> Option<String> {
    let entries = top.read_dir(Path::from("/")).ok()?;
    let own = top.subvolume();
    let names = entries
        .into_iter()
        .filter(|e| e.inode.subvolume() != own)
        .filter_map(|e| String::from_utf8(e.name).ok())
        .filter(|name| !name.contains(','));
    let mut roots: Vec<String> = names.filter(|name| has_etc(top, &format!("/{name}"))).collect();
    let usual = ROOT_NAMES.iter().find(|usual| roots.iter().any(|name| name == *usual));
    match usual {
        Some(usual) => Some((*usual).to_owned()),
        None if roots.len() == 1 => roots.pop(),
        None => None,
    }
}

fn convert(what: &str, e: &lambutter::Error) -> Error {
    use lambutter::Error as E;
    let message = |kind, text: &str| Error::new(kind, format!("{what} in the guest {text}"));
    let unsupported = |text: &str| message(ErrorKind::Unsupported, text);
    match e {
        E::NotFound => Error::new(ErrorKind::NotFound, format!("{what} does not exist")),
        E::NotARegularFile => message(ErrorKind::Invalid, "is not a regular file"),
        E::NotASymlink => message(ErrorKind::Invalid, "is not a symlink"),
        E::UnsupportedProfile("prof_other_device") => {
            unsupported("cannot be read: its Btrfs is spread over several devices")
        }
        E::UnsupportedFeature(feature) | E::UnsupportedProfile(feature) => {
            unsupported(&format!("cannot be read: Btrfs with {feature}"))
        }
        E::UnsupportedChecksum(_) | E::BadSuperblock(SuperblockReason::UnsupportedCsumType) => {
            unsupported("cannot be read: Btrfs with checksums other than CRC32C")
        }
        E::BadSuperblock(SuperblockReason::UnsupportedIncompat) => {
            unsupported("cannot be read: Btrfs with a feature that is not known")
        }
        other => Error::with_source(
            ErrorKind::Corrupt,
            format!("cannot read {what} in the guest: damaged Btrfs"),
            other.to_string(),
        ),
    }
}
