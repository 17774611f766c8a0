//! The persistent overlay: a standard qcow2 file.
//!
//! `imago` maintains the format's tables; what it writes goes through a [`TableBuffer`]. Data is
//! written directly to the file, bypassing `imago`, and copy-on-write is done here, because only
//! this code knows the base. The file names no backing file: an unallocated cluster shows the base.
//!
//! A cluster of the file that a table has pointed to is never used for anything else: zeroing it
//! frees its storage by punching a hole, and it keeps its place. If it were freed, its next owner
//! could overwrite it while the tables on stable storage still point to it from where it was, and a
//! crash would show one part of the disk in another.

mod format;
mod table_buffer;

use super::overlay::{Base, Overlay, Run};
use super::quota::Quota;
use super::storage::Storage;
use super::{check, header, seal};
use crate::image::{Claim, claim};
use crate::{Error, ErrorKind, Result};
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, ShallowMapping};
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use format::ImagoStorage;
use table_buffer::TableBuffer;

pub(super) use format::Geometry;

/// The first write to unallocated clusters is split into pieces of at most this many bytes.
const ALLOCATE_STEP: u64 = 2 << 20;

/// Clusters that tables may need when up to [`ALLOCATE_STEP`] bytes or 4096 clusters are added: two
/// L2 tables, a refcount block, and a refcount table that moves once in 256 GiB.
const NEW_TABLES: u64 = 4;

/// The persistent overlay, in a file or, in tests, in other storage.
pub struct Qcow2Overlay<S: Storage = File> {
    format: FormatAccess<ImagoStorage>,
    /// Held while tables change; reading never needs it.
    allocating: Mutex<()>,
    /// Held while tables are brought to the file; acquired before `allocating`.
    syncing: Mutex<()>,
    storage: Arc<S>,
    tables: Arc<TableBuffer<S>>,
    len: u64,
    cluster: u64,
    writable: bool,
    closed: AtomicBool,
    quota: Quota,
}

impl<S: Storage> std::fmt::Debug for Qcow2Overlay<S> {
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
            let named = |e: Error| {
                Error::with_source(e.kind(), format!("cannot create the overlay {shown}"), e)
            };
            let overlay =
                Self::create_in(clone(&file)?, len, Geometry::NEW, metadata).map_err(named)?;
            sync_with_directory(&file, path)
                .map_err(|e| Error::io(format!("cannot write {shown}"), e))?;
            Ok(overlay)
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
        let storage = Arc::new(clone(file)?);
        format::format(&storage, len, Geometry::NEW, Some((backing, backing_format.to_owned())))?;
        Self::start(TableBuffer::new(storage, Geometry::NEW.cluster, false), len, true)
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
        Self::open_in(file, write).map_err(refuse)
    }
}

impl<S: Storage> Qcow2Overlay<S> {
    /// Create an overlay for a disk of `len` bytes in `storage`, which is empty. It is durable when
    /// this returns.
    pub(super) fn create_in(
        storage: S,
        len: u64,
        geometry: Geometry,
        metadata: &[u8],
    ) -> Result<Self> {
        let storage = Arc::new(storage);
        format::format(&storage, len, geometry, None)?;
        header::write_metadata(&*storage, metadata)?;
        storage.sync().map_err(|e| Error::io("cannot write the new file", e))?;
        Self::start(TableBuffer::new(storage, geometry.cluster, false), len, true)
    }

    /// Check and open the overlay in `storage`; returns it with its metadata.
    pub(super) fn open_in(storage: S, write: bool) -> Result<(Self, Vec<u8>)> {
        let (header, metadata) = header::read(&storage)?;
        check::check(&storage, &header)?;
        let sealed = seal::verify(&storage, &header)?;
        let (len, cluster) = (header.disk_len, header.cluster_size());
        let tables = TableBuffer::new(Arc::new(storage), cluster, sealed);
        Ok((Self::start(tables, len, write)?, metadata))
    }

    fn start(tables: TableBuffer<S>, len: u64, writable: bool) -> Result<Self> {
        let (storage, cluster) = (Arc::clone(tables.storage()), tables.cluster());
        let tables = Arc::new(tables);
        let qcow2 = Qcow2::<ImagoStorage>::builder(Arc::clone(&tables) as ImagoStorage)
            .backing(None)
            .write(writable)
            .open(DenyImplicitOpenGate::default())
            .map_err(|e| Error::with_source(ErrorKind::Corrupt, "its tables cannot be read", e))?;
        let format = FormatAccess::new(qcow2);
        let (allocating, syncing) = Default::default();
        Ok(Self {
            format,
            allocating,
            syncing,
            storage,
            tables,
            len,
            cluster,
            writable,
            closed: AtomicBool::new(false),
            quota: Quota::unlimited(),
        })
    }

    /// Length in bytes of the disk that the overlay is for.
    pub fn disk_len(&self) -> u64 {
        self.len
    }

    /// What is stored at `offset`, for at most `max` bytes, and the offset in the file for
    /// [`Run::Data`].
    fn lookup(&self, offset: u64, max: u64) -> io::Result<(Run, u64, Option<u64>)> {
        let (mapping, n) = self.format.get_shallow_mapping(offset, max)?;
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
        if self.tables.is_due() {
            self.sync()?;
        }
        let allocating = self.allocating.lock();
        let start = offset - offset % self.cluster;
        let wanted_end = (offset + (buf.len() as u64).min(ALLOCATE_STEP))
            .next_multiple_of(self.cluster)
            .min(self.len);
        let (run, n, _) = self.lookup(start, wanted_end - start)?;
        let n = match run {
            Run::Data => return Ok(0),
            // Zeroed clusters may have places in the file. In a longer mapping, `imago` would
            // exchange them for adjacent ones and free them.
            Run::Zero => n.min(self.cluster),
            Run::Base => n,
        };
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
        let new = n.next_multiple_of(self.cluster) + NEW_TABLES * self.cluster;
        let _space = self.quota.reserve(&*self.storage, || new)?;
        let mapping = self.format.prepare_data_mapping(start, n, true)?;
        if self.tables.is_due() {
            // The refcount table has moved. Committing the mapping would free its old clusters.
            drop(mapping);
            drop(allocating);
            self.sync()?;
            return Ok(0);
        }
        let mapped = mapping.length() as usize;
        let place = mapping.offset();
        self.tables.forget(place..place + mapped as u64);
        self.storage.write_all_at(&bytes[..mapped], place)?;
        self.format.commit_data_mapping(mapping)?;
        Ok(mapped.saturating_sub(head).min(take))
    }

    /// Bring everything to stable storage. The caller holds `syncing`.
    fn sync_locked(&self) -> io::Result<()> {
        {
            let _allocating = self.allocating.lock();
            if self.tables.header_changed() {
                // The refcount table has moved. Flushing frees its old clusters, so the header must
                // be durable first.
                self.tables.freeze();
                self.tables.write_out()?;
            }
            self.format.flush()?;
            self.tables.freeze();
        }
        self.tables.write_out()
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

    /// Zero whole clusters. They keep their places in the file, without storage.
    fn zero_clusters(&self, base: &dyn Base, start: u64, end: u64) -> io::Result<()> {
        if self.tables.is_due() {
            self.sync()?;
        }
        let base_is_zero = base.is_zero(start, end - start);
        let _allocating = self.allocating.lock();
        let mut at = start;
        while at < end {
            let (run, n, place) = self.lookup(at, end - at)?;
            match run {
                Run::Data => self.format.write_zeroes(at, n)?,
                // Where nothing is stored, nothing needs to be.
                Run::Base if !base_is_zero => {
                    let new = NEW_TABLES * self.cluster;
                    let _space = self.quota.reserve(&*self.storage, || new)?;
                    self.format.write_zeroes(at, n)?;
                }
                Run::Base | Run::Zero => {}
            }
            if let Some(place) = place {
                self.storage.punch_hole(place, n);
            }
            at += n.max(1);
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

fn clone(file: &File) -> Result<File> {
    file.try_clone().map_err(|e| Error::io("cannot duplicate a file descriptor", e))
}

impl<S: Storage> Overlay for Qcow2Overlay<S> {
    fn run_at(&self, offset: u64, max: u64) -> io::Result<(Run, u64)> {
        let (run, n, _) = self.lookup(offset, max)?;
        Ok((run, n))
    }

    fn place_at(&self, offset: u64, max: u64) -> io::Result<Option<(&File, u64, u64)>> {
        let (_, n, place) = self.lookup(offset, max)?;
        Ok(place.and_then(|place| Some((self.storage.file()?, place, n))))
    }

    fn read_at(&self, base: &dyn Base, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let (run, n, place) = self.lookup(offset, buf.len() as u64)?;
            let (now, later) = buf.split_at_mut(n as usize);
            match (run, place) {
                (Run::Data, Some(place)) => self.storage.read_exact_at(now, place)?,
                (Run::Base, _) => base.read_at(now, offset)?,
                _ => now.fill(0),
            }
            buf = later;
            offset += n;
        }
        Ok(())
    }

    fn write_at(&self, base: &dyn Base, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let n = match self.lookup(offset, buf.len() as u64)? {
                // A concurrent `zero` may have removed the mapping by the time this is written. The
                // place is still this cluster's, and either order is correct.
                (Run::Data, n, Some(place)) => {
                    self.storage.write_all_at(&buf[..n as usize], place)?;
                    n as usize
                }
                _ => self.allocate(base, buf, offset)?,
            };
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
        // In steps, so that a discard of the whole disk does not block writers for long.
        let step = self.cluster * 4096;
        let mut at = start;
        while at < stop {
            let next = stop.min(at + step);
            self.zero_clusters(base, at, next)?;
            at = next;
        }
        self.zero_partial(base, stop, end - stop)
    }

    fn sync(&self) -> io::Result<()> {
        let _syncing = self.syncing.lock();
        if self.closed.load(Ordering::SeqCst) {
            // A program that outlives the mount's end writes no tables into a sealed file.
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if self.writable { self.sync_locked() } else { Ok(()) }
    }

    fn close(&self) -> io::Result<()> {
        let _syncing = self.syncing.lock();
        if !self.writable || self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.sync_locked()?;
        if self.tables.is_sealed() {
            return Ok(());
        }
        let header = header::read_header(&*self.storage).map_err(io::Error::other)?;
        seal::seal(&*self.storage, &header).map_err(io::Error::other)
    }

    fn set_limit(&self, limit: u64) {
        self.quota.set(limit);
    }

    fn limit(&self) -> Option<u64> {
        self.quota.limit()
    }

    fn allocated(&self) -> u64 {
        self.storage.allocated().unwrap_or(0)
    }

    fn cow_granularity(&self) -> u64 {
        self.cluster
    }
}

/// Writes that were not synced may be lost after an error here, as they may after a crash.
impl<S: Storage> Drop for Qcow2Overlay<S> {
    fn drop(&mut self) {
        if let Err(e) = self.close() {
            tracing::error!("the overlay cannot be brought to stable storage: {e}");
        }
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
