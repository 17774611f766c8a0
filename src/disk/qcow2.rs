//! The persistent overlay: a standard qcow2 file.
//!
//! `imago` maintains the format's tables. Data in clusters that already exist is written directly
//! to the file, bypassing `imago`. Copy-on-write is done here, because only this code knows the
//! base. The file names no backing file: an unallocated cluster shows the base.

use super::overlay::{Base, Overlay, Run, punch_hole};
use super::{check, header};
use crate::image::{Claim, claim};
use crate::{Error, ErrorKind, Result};
use imago::qcow2::Qcow2;
use imago::storage::PreallocateMode;
use imago::{
    DenyImplicitOpenGate, DynStorage, FormatAccess, FormatCreateBuilder, FormatDriverBuilder,
    ShallowMapping, Storage as _,
};
use parking_lot::{Mutex, RwLock};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// Bytes per cluster of a new overlay. See docs/BENCHMARKS.md, "Cluster size".
const CLUSTER: u64 = 16 << 10;
/// The first write to unallocated clusters is split into pieces of at most this many bytes.
const ALLOCATE_STEP: u64 = 2 << 20;

/// The file as `imago` sees it; shared, because `imago` must be told about writes that bypass it.
type Storage = Arc<dyn DynStorage>;

/// The persistent overlay.
pub struct Qcow2Overlay {
    /// Locked shared by operations that keep mappings, exclusively by those that remove clusters.
    format: RwLock<FormatAccess<Storage>>,
    /// Held while clusters are added or removed; reading never needs it.
    allocating: Mutex<()>,
    file: File,
    storage: Storage,
    len: u64,
    cluster: u64,
}

impl std::fmt::Debug for Qcow2Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qcow2Overlay").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Qcow2Overlay {
    /// Create `path`, which must not exist, for a disk of `len` bytes, and store `metadata` in the
    /// file. The file is locked against other users while it is open.
    ///
    /// # Errors
    /// Errors of creating and writing; in that case nothing is left at `path`.
    pub fn create(path: &Path, len: u64, metadata: &[u8]) -> Result<Self> {
        Self::create_with_mode(path, len, metadata, 0o600)
    }

    /// Like [`create`](Self::create), with the permission bits `mode`, minus the umask.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_with_mode(path: &Path, len: u64, metadata: &[u8], mode: u32) -> Result<Self> {
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).mode(mode).open(path);
        let shown = path.display();
        let file = file.map_err(|e| Error::io(format!("cannot create the overlay {shown}"), e))?;
        let build = || -> Result<Self> {
            claim(&file, Claim::Exclusive)?;
            let storage =
                storage(clone(&file)?).map_err(|e| Error::io("cannot use the new file", e))?;
            Qcow2::<Storage>::create_builder(storage)
                .cluster_size(CLUSTER as usize)
                .size(len)
                .create()
                .map_err(|e| Error::io(format!("cannot create the overlay {shown}"), e))?;
            header::write_metadata(&file, metadata)?;
            sync_with_directory(&file, path)
                .map_err(|e| Error::io(format!("cannot write {shown}"), e))?;
            Self::start(clone(&file)?, len, CLUSTER, true)
        };
        build().inspect_err(|_| {
            let _ = std::fs::remove_file(path);
        })
    }

    /// Make the empty `file` a qcow2 file for other programs to read: a disk of `len` bytes with
    /// the backing file `backing`, whose format is `backing_format` (QEMU's name). Its clusters are
    /// as large as those of an overlay, so data copied from an overlay needs no more space in it.
    ///
    /// # Errors
    /// Write errors.
    pub fn create_over(
        file: &File,
        len: u64,
        backing: String,
        backing_format: &str,
    ) -> Result<Self> {
        let failed = |e| Error::io("cannot write the qcow2 header", e);
        Qcow2::<Storage>::create_builder(storage(clone(file)?).map_err(failed)?)
            .cluster_size(CLUSTER as usize)
            .size(len)
            .backing(backing, backing_format.to_owned())
            .create()
            .map_err(failed)?;
        Self::start(clone(file)?, len, CLUSTER, true)
    }

    /// Open the overlay at `path` and return it with the metadata passed at its creation.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when another program has it open, [`ErrorKind::Corrupt`] when it is
    /// damaged, [`ErrorKind::Unsupported`] when synthdisk did not create it.
    pub fn open(path: &Path) -> Result<(Self, Vec<u8>)> {
        Self::open_for(path, true)
    }

    /// Like [`Qcow2Overlay::open`], but read-only: the file is opened read-only, and writes fail.
    /// Other programs may read it meanwhile, but none may write to it.
    ///
    /// # Errors
    /// As [`Qcow2Overlay::open`].
    pub fn open_frozen(path: &Path) -> Result<(Self, Vec<u8>)> {
        Self::open_for(path, false)
    }

    fn open_for(path: &Path, write: bool) -> Result<(Self, Vec<u8>)> {
        let shown = path.display();
        let refuse = |e: Error| {
            let say = match e.kind() {
                ErrorKind::Busy => "is in use by another mount or QEMU",
                ErrorKind::Corrupt => "is damaged; restore it from a backup or remove it",
                ErrorKind::Unsupported => "cannot be used as an overlay",
                _ => "cannot be opened",
            };
            Error::with_source(e.kind(), format!("the overlay {shown} {say}"), e)
        };
        let file = File::options()
            .read(true)
            .write(write)
            .open(path)
            .map_err(|e| Error::io(format!("cannot open the overlay {shown}"), e))?;
        let wanted = if write { Claim::Exclusive } else { Claim::StableRead };
        claim(&file, wanted).map_err(refuse)?;
        let (header, metadata) = header::read(&file).map_err(refuse)?;
        check::check(&file, &header).map_err(refuse)?;
        let overlay =
            Self::start(file, header.disk_len, header.cluster_size(), write).map_err(refuse)?;
        Ok((overlay, metadata))
    }

    /// Length in bytes of the disk that the overlay is for.
    pub fn disk_len(&self) -> u64 {
        self.len
    }

    fn start(file: File, len: u64, cluster: u64, write: bool) -> Result<Self> {
        let open = || -> io::Result<_> {
            let storage = storage(file.try_clone()?)?;
            let qcow2 = Qcow2::<Storage>::builder(Arc::clone(&storage))
                .backing(None)
                .write(write)
                .open(DenyImplicitOpenGate::default())?;
            Ok((qcow2, storage))
        };
        let (qcow2, storage) = open()
            .map_err(|e| Error::with_source(ErrorKind::Corrupt, "its tables cannot be read", e))?;
        let format = FormatAccess::new(qcow2);
        let format = RwLock::new(format);
        Ok(Self { format, allocating: Mutex::new(()), file, storage, len, cluster })
    }

    /// What is stored at `offset`, for at most `max` bytes, and the offset in the file for
    /// [`Run::Data`].
    fn lookup(
        format: &FormatAccess<Storage>,
        offset: u64,
        max: u64,
    ) -> io::Result<(Run, u64, Option<u64>)> {
        let (mapping, n) = format.get_shallow_mapping(offset, max)?;
        match mapping {
            ShallowMapping::Raw { offset, .. } => Ok((Run::Data, n, Some(offset))),
            ShallowMapping::Zero { explicit: true, .. } => Ok((Run::Zero, n, None)),
            ShallowMapping::Zero { explicit: false, .. } => Ok((Run::Base, n, None)),
            _ => Err(io::Error::other("unexpected kind of cluster in the overlay")),
        }
    }

    /// Allocate the cluster(s) at `offset` and store as much of `buf` as fits in one step; returns
    /// how many bytes that is.
    fn allocate(&self, base: &dyn Base, buf: &[u8], offset: u64) -> io::Result<usize> {
        let _allocating = self.allocating.lock();
        let start = offset - offset % self.cluster;
        let wanted_end = (offset + (buf.len() as u64).min(ALLOCATE_STEP))
            .next_multiple_of(self.cluster)
            .min(self.len);
        let (run, n, _) = Self::lookup(&self.format.read(), start, wanted_end - start)?;
        if run == Run::Data {
            return Ok(0);
        }
        // While `allocating` is held, no other thread changes these mappings.
        let end = start + n;
        let take = ((end - offset) as usize).min(buf.len());
        let (head, tail) = ((offset - start) as usize, (offset - start) as usize + take);
        let mut filled = Vec::new();
        let bytes = if head == 0 && tail == n as usize {
            // Whole clusters need no data from the base, so no copy is needed.
            &buf[..take]
        } else {
            filled.resize(n as usize, 0);
            if run == Run::Base {
                if head > 0 {
                    base.read_at(&mut filled[..head], start)?;
                }
                if tail < filled.len() {
                    base.read_at(&mut filled[tail..], offset + take as u64)?;
                }
            }
            filled[head..tail].copy_from_slice(&buf[..take]);
            &filled[..]
        };
        if end % self.cluster != 0 {
            // `imago` zeroes the rest of the disk's last cluster and sets the file's length
            // accordingly. It does not know about writes that bypass it and would cut off what they
            // added after that cluster. The lock is exclusive so that the file cannot grow
            // meanwhile.
            let _alone = self.format.write();
            self.storage.resize(self.file.metadata()?.len(), PreallocateMode::None)?;
        }
        let format = self.format.read();
        let mapping = format.prepare_data_mapping(start, n, true)?;
        let mapped = mapping.length() as usize;
        self.file.write_all_at(&bytes[..mapped], mapping.offset())?;
        format.commit_data_mapping(mapping)?;
        Ok(mapped.saturating_sub(head).min(take))
    }

    /// Zero part of a cluster.
    fn zero_partial(&self, base: &dyn Base, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let already = match self.run_at(offset, len)? {
            (Run::Zero, _) => true,
            (Run::Base, _) => base.is_zero(offset, len),
            (Run::Data, _) => false,
        };
        if already { Ok(()) } else { self.write_at(base, &vec![0; len as usize], offset) }
    }

    /// Zero whole clusters by removing them.
    fn drop_clusters(&self, base: &dyn Base, start: u64, end: u64) -> io::Result<()> {
        let to_base = base.is_zero(start, end - start);
        let _allocating = self.allocating.lock();
        let mut format = self.format.write();
        let mut freed = Vec::new();
        let mut at = start;
        while at < end {
            let (_, n, place) = Self::lookup(&format, at, end - at)?;
            freed.extend(place.map(|place| (place, n)));
            at += n.max(1);
        }
        if to_base {
            // If nothing is stored in the range, there is nothing to remove.
            if !freed.is_empty() || Self::lookup(&format, start, end - start)?.1 < end - start {
                format.discard_to_backing(start, end - start)?;
            }
        } else {
            format.discard_to_zero(start, end - start)?;
        }
        // The lock is still exclusive, so these clusters cannot have been reallocated.
        for (place, n) in freed {
            punch_hole(&self.file, place, n);
        }
        Ok(())
    }
}

/// Make a new file and its directory entry survive a crash.
fn sync_with_directory(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}

fn storage(file: File) -> io::Result<Storage> {
    Ok(Arc::new(imago::file::File::try_from(file)?))
}

fn clone(file: &File) -> Result<File> {
    file.try_clone().map_err(|e| Error::io("cannot duplicate a file descriptor", e))
}

impl Overlay for Qcow2Overlay {
    fn run_at(&self, offset: u64, max: u64) -> io::Result<(Run, u64)> {
        let (run, n, _) = Self::lookup(&self.format.read(), offset, max)?;
        Ok((run, n))
    }

    fn place_at(&self, offset: u64, max: u64) -> io::Result<Option<(&File, u64, u64)>> {
        let (_, n, place) = Self::lookup(&self.format.read(), offset, max)?;
        Ok(place.map(|place| (&self.file, place, n)))
    }

    fn read_at(&self, base: &dyn Base, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let n = {
                let format = self.format.read();
                let (run, n, place) = Self::lookup(&format, offset, buf.len() as u64)?;
                match (run, place) {
                    (Run::Data, Some(place)) => {
                        self.file.read_exact_at(&mut buf[..n as usize], place)?;
                    }
                    (Run::Base, _) => {
                        // The base may in turn read this disk (through a file inside the guest).
                        drop(format);
                        base.read_at(&mut buf[..n as usize], offset)?;
                    }
                    _ => buf[..n as usize].fill(0),
                }
                n
            };
            buf = &mut buf[n as usize..];
            offset += n;
        }
        Ok(())
    }

    fn write_at(&self, base: &dyn Base, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let direct = {
                let format = self.format.read();
                match Self::lookup(&format, offset, buf.len() as u64)? {
                    (Run::Data, n, Some(place)) => {
                        self.file.write_all_at(&buf[..n as usize], place)?;
                        n as usize
                    }
                    _ => 0,
                }
            };
            let n = if direct > 0 { direct } else { self.allocate(base, buf, offset)? };
            buf = &buf[n..];
            offset += n as u64;
        }
        Ok(())
    }

    fn zero(&self, base: &dyn Base, offset: u64, len: u64) -> io::Result<()> {
        let end = offset + len;
        let start = offset.next_multiple_of(self.cluster).min(end);
        let stop = if end == self.len { end } else { (end - end % self.cluster).max(start) };
        self.zero_partial(base, offset, start - offset)?;
        // In steps, so that a discard of the whole disk does not block readers for long.
        let step = self.cluster * 4096;
        let mut at = start;
        while at < stop {
            let next = stop.min(at + step);
            self.drop_clusters(base, at, next)?;
            at = next;
        }
        self.zero_partial(base, stop, end - stop)
    }

    fn sync(&self) -> io::Result<()> {
        self.format.read().flush()?;
        self.file.sync_data()
    }

    fn allocated(&self) -> u64 {
        self.file.metadata().map_or(0, |m| m.blocks() * 512)
    }

    fn cow_granularity(&self) -> u64 {
        self.cluster
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(metadata: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("overlay");
        drop(Qcow2Overlay::create(&path, 3 << 20, metadata).unwrap());
        (dir, path)
    }

    #[test]
    fn metadata_survives_and_must_fit() {
        let (_dir, path) = overlay(b"remember me");
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let (header, metadata) = header::read(&file).unwrap();
        assert_eq!((header.disk_len, &metadata[..]), (3 << 20, &b"remember me"[..]));
        assert_eq!(
            header::write_metadata(&file, &[0; 65536]).unwrap_err().kind(),
            ErrorKind::TooLarge
        );
    }

    #[test]
    fn features_that_an_overlay_never_has() {
        let (_dir, path) = overlay(b"x");
        let file = File::options().read(true).write(true).open(&path).unwrap();
        for (at, byte) in [(7, 2), (15, 1), (35, 1), (63, 1), (79, 1), (79, 4), (79, 16)] {
            let mut old = [0];
            file.read_exact_at(&mut old, at).unwrap();
            file.write_all_at(&[byte], at).unwrap();
            assert_eq!(header::read(&file).unwrap_err().kind(), ErrorKind::Unsupported, "{at}");
            file.write_all_at(&old, at).unwrap();
        }
        header::read(&file).unwrap();
    }
}
