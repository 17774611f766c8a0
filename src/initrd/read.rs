//! Reading an initrd from start to end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::archive::{End, Unpacked, archive, members};
use super::compression::{Compression, Decoder};
use super::entry::InitrdEntry;
use super::generator::Generator;
use super::input::Input;
use super::limits;
use super::listing::{Listing, Wanted};
use crate::bytes::ReadAt;
use crate::fs::{Budget, Cost, GuestFile};
use crate::guard::quietly;
use crate::{Error, Result};

/// Maximum time for reading an initrd; a real one takes less than a second.
const TIME: Duration = Duration::from_secs(15);

/// The purpose of a part of an initrd.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SegmentKind {
    /// Microcode or ACPI tables, which the kernel reads before it unpacks anything.
    Microcode,
    /// Files of the initial root filesystem.
    Main,
}

/// One archive, or one compressed part.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Segment {
    /// Offset of its first byte in the initrd.
    pub offset: u64,
    /// Its length in bytes in the initrd.
    pub len: u64,
    /// How it is compressed.
    pub compression: Compression,
    /// What it is for.
    pub kind: SegmentKind,
    /// Files in it, without directories.
    pub files: u64,
}

/// The contents of an initrd.
#[derive(Clone, Debug, Serialize)]
pub struct Initrd {
    /// Its parts, in order.
    pub segments: Vec<Segment>,
    /// The program that generated it.
    pub generator: Generator,
    /// Kernel versions for which it has modules.
    pub kernels: Vec<String>,
    /// Whether it contains the `/init` that Linux starts.
    pub has_init: bool,
    /// Whether it was read to the end.
    pub complete: bool,
    /// Why it was not, or what Linux would complain about.
    pub problem: Option<String>,
    /// All its entries, by path without a leading slash.
    #[serde(skip)]
    pub entries: BTreeMap<String, InitrdEntry>,
    /// Small files that show how it was generated, by path: `conf/*`, `modules.dep`,
    /// `modules.builtin`, `etc/initrd-release`, dracut's `build-parameter.txt`.
    #[serde(skip)]
    pub small_files: BTreeMap<String, Vec<u8>>,
    #[serde(skip)]
    drivers: BTreeMap<String, BTreeSet<String>>,
}

impl Initrd {
    /// Reads all of an initrd. Its bytes, stored and unpacked, and its entries are charged to
    /// `budget`.
    ///
    /// # Errors
    /// Errors from reading the file. A damaged initrd is not an error, nor is one for which the
    /// budget is too small: see [`problem`](Self::problem).
    pub fn read(file: &mut dyn GuestFile, budget: &Budget) -> Result<Self> {
        look(file, None, budget)
    }

    /// Reads until the generator and all `drivers` of kernel `version` are found;
    /// [`complete`](Self::complete) is then false, without a [`problem`](Self::problem). An initrd
    /// of the generator `trusted` has the drivers.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn find(
        file: &mut dyn GuestFile,
        version: &str,
        drivers: &[&str],
        trusted: Option<Generator>,
        budget: &Budget,
    ) -> Result<Self> {
        look(file, Some(Wanted::new(version, drivers, trusted)), budget)
    }

    /// Whether it was made with the setting `MODULES=most` of initramfs-tools, which puts its settings
    /// into the initrd as well: `conf.d` is read after `initramfs.conf`, in the order of the names.
    pub fn is_for_most_machines(&self) -> bool {
        let settings = self.small_files.range("conf/conf.d/".to_owned()..);
        let settings = settings.take_while(|(path, _)| path.starts_with("conf/conf.d/"));
        let all =
            self.small_files.get("conf/initramfs.conf").into_iter().chain(settings.map(|s| s.1));
        let modules = |text: &Vec<u8>| {
            let text = String::from_utf8_lossy(text);
            let values = text.lines().filter_map(|line| line.trim().strip_prefix("MODULES="));
            values.map(str::to_owned).next_back()
        };
        let last = all.filter_map(modules).last();
        self.generator != Generator::InitramfsTools || last.is_none_or(|m| m.contains("most"))
    }

    /// Whether its `/init` can find a filesystem by `name`, which begins with `UUID=`, `LABEL=` or
    /// `PARTUUID=`; `None` if that cannot be told.
    pub fn finds(&self, name: &str) -> Option<bool> {
        let has = |init: &[u8], text: &str| init.windows(text.len()).any(|w| w == text.as_bytes());
        let init = || self.small_files.get("init").map(Vec::as_slice);
        match self.generator {
            Generator::TinyInitramfs => Some(name.starts_with("UUID=")),
            Generator::Other => {
                let init = init()?;
                let is_program = init.starts_with(b"\x7fELF");
                let found = ["UUID", "findfs", "blkid"].iter().any(|text| has(init, text));
                // A program may know more words than those it prints.
                (found || !is_program).then_some(found)
            }
            _ => Some(true),
        }
    }

    /// Whether it contains this module for kernel `version`; `name` as in `lsmod`.
    pub fn has_driver(&self, version: &str, name: &str) -> bool {
        self.drivers.get(version).is_some_and(|drivers| drivers.contains(name))
    }

    /// Adds the contents of `later`, as Linux does when it unpacks several initrds in sequence.
    pub fn join(&mut self, later: Self) {
        let offset = self.segments.last().map_or(0, |s| s.offset + s.len).next_multiple_of(4);
        let moved = |s: Segment| Segment { offset: offset + s.offset, ..s };
        self.segments.extend(later.segments.into_iter().map(moved));
        if later.generator != Generator::Other {
            self.generator = later.generator;
        }
        self.has_init |= later.has_init;
        self.complete &= later.complete;
        self.problem = self.problem.take().or(later.problem);
        self.entries.extend(later.entries);
        self.small_files.extend(later.small_files);
        for (version, drivers) in later.drivers {
            self.drivers.entry(version).or_default().extend(drivers);
        }
        self.kernels = self.drivers.keys().cloned().collect();
    }
}

fn look(file: &mut dyn GuestFile, wanted: Option<Wanted>, budget: &Budget) -> Result<Initrd> {
    let mut input = Input::new(file, budget);
    let mut listing = Listing::new(wanted, budget);
    let mut segments = Vec::new();
    // The decompressors are other crates; a panic in one becomes an error here.
    let outcome = quietly(|| segments_of(&mut input, &mut listing, &mut segments, budget));
    let outcome = outcome.unwrap_or_else(|panic| Err(io::Error::other(panic)));
    if let Some(e) = input.take_error() {
        return Err(e);
    }
    let at = input.position();
    let (complete, problem) = match outcome {
        Ok(End::Enough) => (false, None),
        Ok(_) => (true, None),
        Err(e) => (false, Some(sentence(&e, at))),
    };
    Ok(Initrd {
        segments,
        generator: Generator::of(&listing.entries),
        kernels: listing.drivers.keys().cloned().collect(),
        has_init: listing.entries.contains_key("init"),
        complete,
        problem,
        entries: listing.entries,
        small_files: listing.kept,
        drivers: listing.drivers,
    })
}

fn segments_of(
    input: &mut Input<'_>,
    listing: &mut Listing<'_>,
    segments: &mut Vec<Segment>,
    budget: &Budget,
) -> io::Result<End> {
    let deadline = Instant::now() + TIME;
    loop {
        let offset = input.position();
        let head = input.peek()?;
        let compression = match head {
            [] => return Ok(End::Bytes),
            [0, ..] => {
                let zeros = input.peek()?.iter().take_while(|b| **b == 0).count();
                io::BufRead::consume(input, zeros);
                continue;
            }
            [b'0', ..] if offset.is_multiple_of(4) => Compression::None,
            _ => Compression::detect(head).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "neither an archive nor compressed")
            })?,
        };
        if segments.len() >= limits::SEGMENTS {
            return Err(io::Error::other("it has too many parts"));
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let before = (listing.files, listing.early_files);
        let end = match compression {
            Compression::None => archive(input, listing).map(|(end, _)| end),
            _ => Decoder::new(compression, input).and_then(|decoder| {
                let mut unpacked = Unpacked::new(decoder, budget, deadline);
                let end = members(&mut unpacked, listing);
                unpacked.decoder.finish();
                end
            }),
        };
        let files = listing.files - before.0;
        let early = files > 0 && listing.early_files - before.1 == files;
        segments.push(Segment {
            offset,
            len: input.position() - offset,
            compression,
            kind: if early { SegmentKind::Microcode } else { SegmentKind::Main },
            files,
        });
        if end? == End::Enough {
            return Ok(End::Enough);
        }
    }
}

fn sentence(e: &io::Error, at: u64) -> String {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => format!("it ends too early, at byte {at}"),
        io::ErrorKind::TimedOut => format!("it takes longer than {} s to read", TIME.as_secs()),
        _ => format!("{e} (near byte {at})"),
    }
}

/// Unpacks a module of at most `limit` bytes: plain `.ko`, `.ko.gz`, `.ko.xz` or `.ko.zst`.
///
/// # Errors
/// `Corrupt` if it can't be unpacked, `TooLarge` beyond `limit` or what `budget` allows.
pub(crate) fn unpack_file(bytes: Vec<u8>, limit: usize, budget: &Budget) -> Result<Vec<u8>> {
    use crate::ErrorKind;
    let Some(compression) = Compression::detect(&bytes) else { return Ok(bytes) };
    let corrupt = |e| Error::with_source(ErrorKind::Corrupt, "it cannot be unpacked", e);
    let mut out = Vec::new();
    let mut file = Whole(bytes);
    let mut input = Input::new(&mut file, budget);
    quietly(|| {
        Decoder::new(compression, &mut input)
            .and_then(|decoder| decoder.take(limit as u64 + 1).read_to_end(&mut out))
    })
    .unwrap_or_else(|panic| Err(io::Error::other(panic)))
    .map_err(corrupt)?;
    if out.len() > limit {
        return Err(Error::new(ErrorKind::TooLarge, format!("it has more than {limit} bytes")));
    }
    budget.charge(Cost::UnpackedBytes, out.len() as u64)?;
    Ok(out)
}

/// A [`GuestFile`] over any reader, for an initrd that is not a guest's file.
#[derive(Debug)]
pub struct Whole<R>(pub R);

impl<R: ReadAt> GuestFile for Whole<R> {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let left = self.0.len().saturating_sub(offset);
        let n = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        self.0
            .read_at(&mut buf[..n], offset)
            .map_err(|e| Error::io("cannot read the initrd", e))?;
        Ok(n)
    }
}
