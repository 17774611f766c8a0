//! An image that is composed of layers: a file with tables, and the backing images beneath it.
//!
//! A read is resolved through the layers, the image itself first: a part of the disk comes from the
//! first layer that has it, and is zero if none has it. The result for a window of the disk is
//! cached, because the files do not change.

use super::layer::{Layer, Place};
use super::stored_file::StoredFile;
use super::{Image, ImageFile, MappedSlice};
use crate::bytes::{Extent, Extents, ReadAt};
use lru::LruCache;
use parking_lot::Mutex;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

/// How much of the disk is resolved at once, in bytes.
const WINDOW: u64 = 2 << 20;
/// Number of cached windows. A window takes up to 160 KiB, if its sectors alternate between places,
/// but usually only a few bytes.
const MOST_WINDOWS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Number of cached units that were compressed, and their total length in bytes; one is always kept.
const MOST_UNITS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
const MOST_UNPACKED: usize = 16 << 20;

/// Maximum length of a disk in bytes: offsets stay far away from the limits of file offsets.
pub(super) const MAX_LEN: u64 = 1 << 60;

/// A layer, and the name of its format.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) layer: Box<dyn Layer>,
    pub(super) format: &'static str,
}

/// A disk made of layers.
pub(super) struct LayeredImage {
    /// Starting with the image itself; never empty.
    layers: Vec<Opened>,
    len: u64,
    windows: Mutex<LruCache<u64, Arc<[Run]>>>,
    units: Mutex<Units>,
}

/// A contiguous run of the disk's bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Run {
    /// First byte of the disk after the run. The run begins at the end of the previous one.
    end: u64,
    content: Content,
}

/// What a run contains.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Content {
    Zeros,
    /// Bytes in a layer's file. The shift is the offset in the file minus the offset on the disk, in
    /// bytes, modulo 2^64.
    Stored {
        layer: usize,
        file: usize,
        shift: u64,
    },
    Packed {
        layer: usize,
        unit: u64,
    },
}

/// Units that were decompressed, by layer and offset on the disk.
struct Units {
    known: LruCache<(usize, u64), Arc<[u8]>>,
    bytes: usize,
}

impl Units {
    fn put(&mut self, key: (usize, u64), unit: Arc<[u8]>) {
        self.bytes += unit.len();
        if let Some((_, old)) = self.known.push(key, unit) {
            self.bytes -= old.len();
        }
        while self.bytes > MOST_UNPACKED && self.known.len() > 1 {
            let Some((_, old)) = self.known.pop_lru() else { break };
            self.bytes -= old.len();
        }
    }
}

impl fmt::Debug for LayeredImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayeredImage").field("layers", &self.layers).finish_non_exhaustive()
    }
}

impl LayeredImage {
    /// The disk of `layers`, which begin with the image itself. There must be one.
    pub(super) fn new(layers: Vec<Opened>) -> Self {
        let len = layers[0].layer.len();
        Self {
            layers,
            len,
            windows: Mutex::new(LruCache::new(MOST_WINDOWS)),
            units: Mutex::new(Units { known: LruCache::new(MOST_UNITS), bytes: 0 }),
        }
    }

    fn file(&self, layer: usize, file: usize) -> &StoredFile {
        &self.layers[layer].layer.files()[file]
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

    /// What the disk's bytes from `start` to `end` are.
    fn resolve(&self, start: u64, end: u64) -> io::Result<Vec<Run>> {
        // Ranges of the disk that are already located, and those not found in any layer so far.
        let mut found: Vec<(u64, Run)> = Vec::new();
        let mut open = vec![(start, end)];
        for (layer, Opened { layer: source, .. }) in self.layers.iter().enumerate() {
            let mut rest: Vec<(u64, u64)> = Vec::new();
            let mut put = |from: u64, end: u64, place: Place| {
                let content = match place {
                    // Adjacent parts are one range, so that fewer table lookups follow.
                    Place::Absent => match rest.last_mut() {
                        Some(last) if last.1 == from => return last.1 = end,
                        _ => return rest.push((from, end)),
                    },
                    Place::Zeros => Content::Zeros,
                    Place::Stored { file, offset } => {
                        Content::Stored { layer, file, shift: offset.wrapping_sub(from) }
                    }
                    Place::Packed { unit } => Content::Packed { layer, unit },
                };
                found.push((from, Run { end, content }));
            };
            for (from, to) in open {
                let middle = source.len().clamp(from, to);
                if from < middle {
                    source.locate(from, middle, &mut put)?;
                }
                if middle < to {
                    put(middle, to, Place::Zeros);
                }
            }
            open = rest;
            if open.is_empty() {
                break;
            }
        }
        let zeros = |(from, end)| (from, Run { end, content: Content::Zeros });
        found.extend(open.into_iter().map(zeros));
        found.sort_unstable_by_key(|(from, _)| *from);
        let mut runs: Vec<Run> = Vec::with_capacity(found.len());
        for (_, run) in found {
            match runs.last_mut() {
                Some(last) if last.content == run.content => last.end = run.end,
                _ => runs.push(run),
            }
        }
        Ok(runs)
    }

    /// Fill `buf`, which begins at `offset` of the disk, from the compressed unit at `unit`.
    fn read_packed(
        &self,
        buf: &mut [u8],
        offset: u64,
        (layer, unit): (usize, u64),
    ) -> io::Result<()> {
        let known = self.units.lock().known.get(&(layer, unit)).cloned();
        let bytes = match known {
            Some(bytes) => bytes,
            None => {
                let bytes: Arc<[u8]> = self.layers[layer].layer.unpack(unit)?.into();
                self.units.lock().put((layer, unit), Arc::clone(&bytes));
                bytes
            }
        };
        let at = usize::try_from(offset - unit).map_err(|_| io::ErrorKind::InvalidData)?;
        let end = at.checked_add(buf.len()).ok_or(io::ErrorKind::InvalidData)?;
        buf.copy_from_slice(bytes.get(at..end).ok_or(io::ErrorKind::InvalidData)?);
        Ok(())
    }

    fn files(&self) -> impl Iterator<Item = (&Opened, &StoredFile)> {
        self.layers.iter().flat_map(|opened| opened.layer.files().iter().map(move |f| (opened, f)))
    }
}

impl ReadAt for LayeredImage {
    fn read_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !buf.is_empty() {
            let run = self.run_at(offset)?;
            let n = (run.end - offset).min(buf.len() as u64) as usize;
            let (part, rest) = buf.split_at_mut(n);
            match run.content {
                Content::Zeros => part.fill(0),
                Content::Stored { layer, file, shift } => {
                    self.file(layer, file).read(part, offset.wrapping_add(shift))?;
                }
                Content::Packed { layer, unit } => self.read_packed(part, offset, (layer, unit))?,
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

impl Extents for LayeredImage {
    fn extent_at(&self, offset: u64) -> io::Result<Extent> {
        if offset >= self.len {
            return Ok(Extent { data: false, end: self.len });
        }
        let run = self.run_at(offset)?;
        match run.content {
            Content::Zeros => Ok(Extent { data: false, end: run.end }),
            Content::Packed { .. } => Ok(Extent { data: true, end: run.end }),
            Content::Stored { layer, file, shift } => {
                // The file may itself be sparse there.
                let place = offset.wrapping_add(shift);
                let found = self.file(layer, file).extent_at(place)?;
                let end = offset.saturating_add(found.end.saturating_sub(place));
                // A file that was cut short meanwhile has no extent there.
                Ok(Extent { data: found.data, end: end.clamp(offset + 1, run.end) })
            }
        }
    }
}

impl Image for LayeredImage {
    fn map(&self, offset: u64, len: usize) -> Option<MappedSlice> {
        let end = offset.checked_add(len as u64)?;
        if len == 0 || end > self.len {
            return None;
        }
        let run = self.run_at(offset).ok().filter(|run| end <= run.end)?;
        let Content::Stored { layer, file, shift } = run.content else { return None };
        self.file(layer, file).map(offset.wrapping_add(shift), len)
    }

    fn allocated(&self) -> u64 {
        self.files().map(|(_, file)| file.allocated()).sum()
    }

    fn path(&self) -> &Path {
        self.layers[0].layer.files()[0].path()
    }

    fn version(&self) -> Option<String> {
        // Only whole images are remote.
        self.files().find_map(|(_, file)| file.version().map(str::to_owned))
    }

    fn notes(&self) -> Vec<String> {
        self.files().filter_map(|(_, file)| file.note().map(str::to_owned)).collect()
    }

    fn format(&self) -> &'static str {
        self.layers[0].format
    }

    fn files(&self) -> Vec<ImageFile> {
        let of = |(opened, file): (&Opened, &StoredFile)| ImageFile {
            path: file.path().to_path_buf(),
            format: opened.format,
        };
        self.files().map(of).collect()
    }
}
