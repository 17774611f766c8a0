//! VHD images: fixed, dynamic, and chains of differencing disks, read in place.
//!
//! A read is resolved through the layers of the chain, starting with the image itself: a sector
//! comes from the first layer whose bitmap contains it, and is zero if no layer contains it. The
//! result for a window of the disk is cached, because the files do not change.
//!
//! Source: Microsoft, "Virtual Hard Disk Image Format Specification" 1.0. The disk's length is the
//! footer's current size, as under Xen; Virtual PC rounds that down to a disk geometry.

mod chain;
mod header;
mod layer;
#[cfg(test)]
mod testing;

use super::driver::{Driver, Opening};
use super::raw::extent_of;
use super::{Image, MappedSlice};
use crate::Result;
use crate::bytes::{Extent, Extents, ReadAt};
use header::SECTOR;
use layer::Layer;
use lru::LruCache;
use parking_lot::Mutex;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

pub(super) static FORMAT: Driver = Driver {
    name: "vhd",
    qemu_name: "vpc",
    extensions: &["vhd"],
    plain: false,
    open: |opening| Ok(Arc::new(VhdImage::new(opening)?)),
};

/// How much of the disk is resolved at once, in bytes: the usual block size.
const WINDOW: u64 = 2 << 20;
/// Number of cached windows. A window takes up to 128 KiB, if sectors alternate between layers, but
/// usually only a few bytes.
const MOST_WINDOWS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// A VHD and the parents that it depends on.
struct VhdImage {
    /// Starting with the image itself.
    layers: Vec<Layer>,
    len: u64,
    windows: Mutex<LruCache<u64, Arc<[Run]>>>,
}

/// A contiguous run of the disk's bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Run {
    /// First byte of the disk after the run. The run begins at the end of the previous one.
    end: u64,
    /// Where the bytes are stored; `None` means zeros.
    stored: Option<Stored>,
}

/// Bytes in a layer's file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stored {
    layer: usize,
    /// Offset in the file minus offset on the disk, in bytes; modulo 2^64.
    shift: u64,
}

impl fmt::Debug for VhdImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VhdImage").field("layers", &self.layers).finish_non_exhaustive()
    }
}

impl VhdImage {
    fn new(opening: Opening) -> Result<Self> {
        let (layers, len) = chain::open(opening)?;
        Ok(Self { layers, len, windows: Mutex::new(LruCache::new(MOST_WINDOWS)) })
    }

    /// The runs of the window that contains `offset`.
    fn window(&self, offset: u64) -> io::Result<Arc<[Run]>> {
        let number = offset / WINDOW;
        if let Some(known) = self.windows.lock().get(&number) {
            return Ok(Arc::clone(known));
        }
        let start = number * WINDOW;
        let runs: Arc<[Run]> = self.resolve(start, (start + WINDOW).min(self.len))?.into();
        self.windows.lock().put(number, Arc::clone(&runs));
        Ok(runs)
    }

    /// The run that contains `offset`, which is on the disk; cut off at the end of its window.
    fn run_at(&self, offset: u64) -> io::Result<Run> {
        let runs = self.window(offset)?;
        Ok(runs[runs.partition_point(|run| run.end <= offset)])
    }

    /// Where the disk's bytes from `start` to `end` are stored.
    fn resolve(&self, start: u64, end: u64) -> io::Result<Vec<Run>> {
        // Ranges of the disk that are already located, and those not found in any layer so far.
        let mut found: Vec<(u64, Run)> = Vec::new();
        let mut open = vec![(start, end)];
        for (number, layer) in self.layers.iter().enumerate() {
            let mut rest = Vec::new();
            for range in open {
                let mut put = |from: u64, to: u64, place: Option<u64>| match place {
                    Some(place) => {
                        let shift = place.wrapping_sub(from);
                        let stored = Some(Stored { layer: number, shift });
                        found.push((from, Run { end: to, stored }));
                    }
                    None => rest.push((from, to)),
                };
                split(layer, range, &mut put)?;
            }
            open = rest;
            if open.is_empty() {
                break;
            }
        }
        found.extend(open.into_iter().map(|(from, end)| (from, Run { end, stored: None })));
        found.sort_unstable_by_key(|(from, _)| *from);
        let mut runs: Vec<Run> = Vec::with_capacity(found.len());
        for (_, run) in found {
            match runs.last_mut() {
                Some(last) if last.stored == run.stored => last.end = run.end,
                _ => runs.push(run),
            }
        }
        Ok(runs)
    }
}

/// Split a range of the disk into parts that `layer` stores, which are passed to `put` with the
/// offset in the file, and parts that it does not store.
fn split(
    layer: &Layer,
    (start, end): (u64, u64),
    put: &mut dyn FnMut(u64, u64, Option<u64>),
) -> io::Result<()> {
    if let Some(len) = layer.plain() {
        let middle = len.clamp(start, end);
        if start < middle {
            put(start, middle, Some(start));
        }
        if middle < end {
            put(middle, end, None);
        }
        return Ok(());
    }
    let Some(block_size) = layer.block_size() else { return Ok(()) };
    let mut at = start;
    while at < end {
        let number = at / block_size;
        let block_start = number * block_size;
        let block_end = (block_start + block_size).min(end);
        match layer.block(number) {
            None => put(at, block_end, None),
            Some((bitmap, data)) => {
                let first = (at - block_start) / SECTOR;
                let last = (block_end - block_start).div_ceil(SECTOR);
                let skip = first / 8;
                let mut bits = vec![0; (last.div_ceil(8) - skip) as usize];
                layer.file().read_exact_at(&mut bits, bitmap + skip)?;
                let has = |sector: u64| {
                    let bit = sector - skip * 8;
                    bits[(bit / 8) as usize] & (0x80 >> (bit % 8)) != 0
                };
                let mut sector = first;
                while sector < last {
                    let here = has(sector);
                    let from = sector;
                    while sector < last && has(sector) == here {
                        sector += 1;
                    }
                    let part_start = block_start + from * SECTOR;
                    let part_end = (block_start + sector * SECTOR).min(block_end);
                    put(part_start, part_end, here.then(|| data + from * SECTOR));
                }
            }
        }
        at = block_end;
    }
    Ok(())
}

impl ReadAt for VhdImage {
    fn read_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !buf.is_empty() {
            let run = self.run_at(offset)?;
            let n = (run.end - offset).min(buf.len() as u64) as usize;
            let (part, rest) = buf.split_at_mut(n);
            match run.stored {
                None => part.fill(0),
                Some(Stored { layer, shift }) => {
                    self.layers[layer].file().read_exact_at(part, offset.wrapping_add(shift))?;
                }
            }
            buf = rest;
            offset += n as u64;
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }
}

impl Extents for VhdImage {
    fn extent_at(&self, offset: u64) -> io::Result<Extent> {
        if offset >= self.len {
            return Ok(Extent { data: false, end: self.len });
        }
        let run = self.run_at(offset)?;
        let Some(Stored { layer, shift }) = run.stored else {
            return Ok(Extent { data: false, end: run.end });
        };
        match self.layers[layer].plain() {
            // A fixed or raw parent may be a sparse file.
            Some(len) => {
                let place = offset.wrapping_add(shift);
                let found = extent_of(self.layers[layer].file(), len, place)?;
                let end = offset + (found.end - place);
                Ok(Extent { data: found.data, end: end.min(run.end) })
            }
            None => Ok(Extent { data: true, end: run.end }),
        }
    }
}

impl Image for VhdImage {
    fn map(&self, offset: u64, len: usize) -> Option<MappedSlice> {
        let end = offset.checked_add(len as u64)?;
        if len == 0 || end > self.len {
            return None;
        }
        let run = self.run_at(offset).ok()?;
        let Stored { layer, shift } = run.stored.filter(|_| end <= run.end)?;
        let layer = &self.layers[layer];
        layer.mapping()?.slice(layer.file(), offset.wrapping_add(shift), len)
    }

    fn allocated(&self) -> u64 {
        self.layers.iter().map(Layer::allocated).sum()
    }

    fn path(&self) -> &Path {
        self.layers[0].path()
    }

    fn format(&self) -> &'static str {
        FORMAT.qemu_name
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Disk, write};
    use super::*;
    use crate::ErrorKind;
    use std::fs;
    use uuid::Uuid;

    const BLOCK: u64 = 64 << 10;

    fn open(path: &Path) -> Result<VhdImage> {
        VhdImage::new(Opening::new(path)?)
    }

    /// Reads at odd offsets and lengths, extents and mapped slices all show `expected`.
    fn check(image: &VhdImage, expected: &[u8]) {
        assert_eq!(image.len(), expected.len() as u64);
        let (mut at, mut step) = (0, 1);
        while at < expected.len() {
            let end = (at + step).min(expected.len());
            let mut buf = vec![1; end - at];
            image.read_at(&mut buf, at as u64).unwrap();
            assert!(buf == expected[at..end], "{at}..{end}");
            if let Some(slice) = image.map(at as u64, end - at) {
                let mut through = tempfile::tempfile().unwrap();
                io::Write::write_all(&mut through, slice.for_syscall()).unwrap();
                through.read_exact_at(&mut buf, 0).unwrap();
                assert!(buf == expected[at..end], "mapped {at}..{end}");
            }
            at = end;
            step = step * 3 % 77_777 + 1;
        }
        let mut at = 0;
        while at < image.len() {
            let extent = image.extent_at(at).unwrap();
            assert!(extent.end > at && extent.end <= image.len());
            let range = &expected[at as usize..extent.end as usize];
            assert!(extent.data || range.iter().all(|b| *b == 0), "hole at {at}");
            at = extent.end;
        }
        assert!(image.read_at(&mut [0; 2], image.len() - 1).is_err());
        assert!(image.read_at(&mut [0], u64::MAX).is_err());
        assert!(image.map(image.len() - 1, 2).is_none());
    }

    /// Random sectors at positions that depend on `seed`, on top of `base`, and the resulting disk.
    fn changes(len: u64, seed: u64, base: &[u8]) -> (Vec<(u64, Vec<u8>)>, Vec<u8>) {
        let mut state = seed;
        let mut next = || {
            state =
                state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            state >> 33
        };
        let mut disk = base.to_vec();
        disk.resize(len as usize, 0);
        let mut sectors = Vec::new();
        for _ in 0..40 {
            let first = next() % (len / SECTOR);
            for sector in first..(first + next() % 30).min(len / SECTOR) {
                let byte = (next() % 255) as u8;
                let data = vec![byte; SECTOR as usize];
                disk[(sector * SECTOR) as usize..][..SECTOR as usize].copy_from_slice(&data);
                sectors.push((sector, data));
            }
        }
        (sectors, disk)
    }

    #[test]
    fn chains_of_all_kinds() {
        let dir = tempfile::tempdir().unwrap();
        let len = 9 * BLOCK + 3 * SECTOR;
        for root in ["dynamic", "fixed", "raw"] {
            let root_path = dir.path().join(format!("{root}-0.vhd"));
            let (sectors, mut disk) = changes(len, 1, &[]);
            let mut id = Uuid::from_u128(1);
            match root {
                "raw" => {
                    fs::write(&root_path, &disk).unwrap();
                    id = Uuid::nil();
                }
                "fixed" => write(&root_path, &Disk::fixed(id, &disk)),
                _ => write(&root_path, &Disk::dynamic(len, id, BLOCK, &sectors)),
            }
            if root != "raw" {
                check(&open(&root_path).unwrap(), &disk);
            }
            for level in 1..=30 {
                let name = format!("{root}-{level}.vhd");
                let parent = format!("{root}-{}.vhd", level - 1);
                // A disk may be grown between two levels of the chain.
                let len = len + level / 10 * 7 * SECTOR;
                let (sectors, changed) = changes(len, level, &disk);
                disk = changed;
                let own = Uuid::from_u128(level as u128 + 1);
                // A block size different from the parent's.
                let block = if level % 4 == 3 { 2 * BLOCK } else { BLOCK };
                let child = Disk::dynamic(len, own, block, &sectors).with_parent(id, &parent);
                write(&dir.path().join(&name), &child);
                id = own;
                if [1, 3, 29, 30].contains(&level) {
                    check(&open(&dir.path().join(&name)).unwrap(), &disk);
                }
            }
        }
    }

    #[test]
    fn broken_chains_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (a, b) = (Uuid::from_u128(10), Uuid::from_u128(11));
        let len = 2 * BLOCK;
        let child =
            |id, parent, name: &str| Disk::dynamic(len, id, BLOCK, &[]).with_parent(parent, name);
        let refused = |name: &str, kind: ErrorKind, word: &str| {
            let e = open(&path(name)).unwrap_err();
            assert!(e.kind() == kind && e.to_string().contains(word), "{e}");
        };
        write(&path("child.vhd"), &child(b, a, "base.vhd"));
        refused("child.vhd", ErrorKind::NotFound, "put base.vhd");
        write(&path("base.vhd"), &Disk::dynamic(len, b, BLOCK, &[]));
        refused("child.vhd", ErrorKind::Corrupt, "another disk");
        // Found by XenServer's naming scheme, when the locator's path is elsewhere.
        write(&path("moved.vhd"), &child(b, a, "/sr/elsewhere/x.vhd"));
        refused("moved.vhd", ErrorKind::NotFound, "x.vhd or 00000000");
        write(&path(&format!("{a}.vhd")), &Disk::dynamic(len, a, BLOCK, &[]));
        open(&path("moved.vhd")).unwrap();
        // Outside the directory, by name or by link.
        write(&path("out.vhd"), &child(b, a, "../base.vhd"));
        std::os::unix::fs::symlink("/etc/hostname", path("link.vhd")).unwrap();
        write(&path("linked.vhd"), &child(b, a, "link.vhd"));
        refused("linked.vhd", ErrorKind::Invalid, "symbolic link");
        // A disk that is its own parent, and a cycle.
        write(&path("self.vhd"), &child(a, a, "self.vhd"));
        refused("self.vhd", ErrorKind::Corrupt, "no end");
        write(&path("one.vhd"), &child(a, b, "two.vhd"));
        write(&path("two.vhd"), &child(b, a, "one.vhd"));
        refused("one.vhd", ErrorKind::Corrupt, "no end");
    }

    #[test]
    fn either_footer_will_do_but_not_two() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.vhd");
        let (sectors, disk) = changes(4 * BLOCK, 5, &[]);
        let good = Disk::dynamic(4 * BLOCK, Uuid::from_u128(1), BLOCK, &sectors).bytes();
        let last = good.len() - 512;
        for (at, byte) in [(0, 0), (20, 9), (last, 0), (last + 100, 7)] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            fs::write(&path, bytes).unwrap();
            check(&open(&path).unwrap(), &disk);
        }
        let mut bytes = good.clone();
        bytes[last..].copy_from_slice(&testing::footer(3, 4 * BLOCK, Uuid::from_u128(2)));
        fs::write(&path, &bytes).unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("contradict"));
        // A truncated file gives an error or the bytes that are left, and never a panic.
        for len in (0..good.len()).step_by(1000) {
            fs::write(&path, &good[..len]).unwrap();
            if let Ok(image) = Opening::new(&path).and_then(VhdImage::new) {
                let mut at = 0;
                while at < image.len() {
                    let _ = image.read_at(&mut [0; 512], at);
                    at += 512;
                }
            }
        }
    }
}
