//! The persistent overlay: a standard qcow2 file.
//!
//! `imago` keeps the format's tables; data that lies in clusters which exist already goes straight
//! to the file, past it, and copying up on a first write is done here, because only here the base
//! is known. The file names no backing file: unallocated means "as the base".

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
/// A first write takes effect in pieces of at most this many bytes.
const ALLOCATE_STEP: u64 = 2 << 20;

/// The file as `imago` sees it; shared, because what we write past `imago` it must be told.
type Storage = Arc<dyn DynStorage>;

/// The persistent overlay.
pub struct Qcow2Overlay {
    /// Shared for all that keeps mappings, exclusive for what takes clusters away.
    format: RwLock<FormatAccess<Storage>>,
    /// Held while clusters are added or taken away, and never needed for reading.
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
    /// Create `path`, which must not exist, for a disk of `len` bytes; `metadata` is remembered in
    /// the file. Locked against other users for as long as it is open.
    ///
    /// # Errors
    /// Those of creating and writing; nothing is left at `path` then.
    pub fn create(path: &Path, len: u64, metadata: &[u8]) -> Result<Self> {
        Self::create_with_mode(path, len, metadata, 0o600)
    }

    /// As [`create`](Self::create), with the permission bits `mode`, less what the umask forbids.
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

    /// Make `file`, which is empty, a qcow2 file for others to read: a disk of `len` bytes that shows
    /// the file named `backing`, of the format `backing_format` (as QEMU calls it), where nothing is
    /// written. Its clusters are as large as those of an overlay, so that what an overlay holds
    /// takes no more room in it.
    ///
    /// # Errors
    /// Those of writing.
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

    /// Open the overlay at `path` and return it with the metadata that it was created with.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when another program has it open, [`ErrorKind::Corrupt`] when it is
    /// damaged, [`ErrorKind::Unsupported`] when it is no overlay of ours.
    pub fn open(path: &Path) -> Result<(Self, Vec<u8>)> {
        Self::open_for(path, true)
    }

    /// As [`Qcow2Overlay::open`], but only to be read: the file is opened read-only, and writes
    /// fail. Others may read it meanwhile and nobody may write to it.
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

    /// What `offset` maps to, for at most `max` bytes; where the bytes are for [`Run::Data`].
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

    /// Give the cluster(s) at `offset` a place and store as much of `buf` as was done in one go.
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
        // Nobody else changes these mappings while `allocating` is held.
        let end = start + n;
        let take = ((end - offset) as usize).min(buf.len());
        let (head, tail) = ((offset - start) as usize, (offset - start) as usize + take);
        let mut filled = Vec::new();
        let bytes = if head == 0 && tail == n as usize {
            // Whole clusters: nothing to complete, so no need for a copy.
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
            // `imago` zeroes the rest of the disk's last cluster and sets the file's length for it. It
            // doesn't know of our writes and would cut off what they have added after that cluster.
            // Exclusive, so that the file cannot grow meanwhile.
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

    /// Zero whole clusters by taking them away.
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
            // Where nothing is held there is nothing to drop.
            if !freed.is_empty() || Self::lookup(&format, start, end - start)?.1 < end - start {
                format.discard_to_backing(start, end - start)?;
            }
        } else {
            format.discard_to_zero(start, end - start)?;
        }
        // Still exclusive, so nobody can have been given these clusters.
        for (place, n) in freed {
            punch_hole(&self.file, place, n);
        }
        Ok(())
    }
}

/// Make a new file and its name survive a crash.
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
                        // The base may read the disk in turn (a file inside the guest).
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
        // In steps, so that readers are not kept waiting by a discard of the whole disk.
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
