//! What a disk may show: for each sector, the last flushed content and what was written since.

use super::Rng;
use super::recorder::SECTOR;
use crate::bytes::ReadAt;
use crate::disk::{Disk, Region, RegionKind, Source};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

/// The tag of what the base shows, and of zeros. Each write has a tag of its own.
const BASE: u64 = 1;
const ZERO: u64 = 0;

/// The word that fills sector `sector` when it was written with `tag`.
fn word(tag: u64, sector: u64) -> [u8; 8] {
    if tag == ZERO { [0; 8] } else { (Rng(tag << 32 | sector).next() | 1).to_le_bytes() }
}

/// The content of sectors that were written with `tag`.
fn content(tag: u64, sectors: Range<u64>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(((sectors.end - sectors.start) as usize) * SECTOR);
    for sector in sectors {
        bytes.extend_from_slice(&word(tag, sector).repeat(SECTOR / 8));
    }
    bytes
}

/// Whether `found` is what was written to `sector` with `tag`.
fn fits(found: &[u8], tag: u64, sector: u64) -> bool {
    found[..8] == word(tag, sector) && found[8..] == found[..SECTOR - 8]
}

/// An operation on a disk. Offsets and lengths in sectors.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    Write { at: u64, len: u64 },
    Zero { at: u64, len: u64 },
    Flush,
}

impl Op {
    /// A random operation on a disk of `sectors` sectors.
    pub(super) fn random(rng: &mut Rng, sectors: u64) -> Self {
        let longest = if rng.one_in(8) { sectors / 4 } else { 40 };
        // Half of all operations hit a small part of the disk, so that they meet each other.
        let at = if rng.one_in(2) { rng.below(sectors) } else { rng.below(sectors / 8) };
        let len = (1 + rng.below(longest)).min(sectors - at);
        match rng.below(10) {
            0..6 => Self::Write { at, len },
            6..8 => Self::Zero { at, len },
            _ => Self::Flush,
        }
    }
}

/// The regions of a test disk: half of it, in stripes, shows content; the rest shows zeros.
pub(super) fn regions(sectors: u64) -> Vec<Region> {
    let stripe = sectors / 8;
    let mut regions = Vec::new();
    for n in 0..8 {
        let (start, end) = (n * stripe, if n == 7 { sectors } else { (n + 1) * stripe });
        let source = if n % 2 == 0 {
            Source::Bytes(content(BASE, start..end).into())
        } else {
            Source::Zeros
        };
        regions.push(Region {
            start: start * SECTOR as u64,
            len: (end - start) * SECTOR as u64,
            kind: RegionKind::Partition(n as u32 + 1),
            origin: String::new(),
            source,
        });
    }
    regions
}

/// What is known of a disk's content.
#[derive(Clone)]
pub(super) struct Model {
    /// The last acknowledged content.
    now: Vec<u64>,
    /// Content as of the last flush.
    flushed: Vec<u64>,
    /// What else a sector may show after a crash.
    maybe: BTreeMap<u64, Vec<u64>>,
    /// What else a sector may show now, after a failed write; part of `maybe`.
    unsure: BTreeMap<u64, Vec<u64>>,
    next_tag: u64,
}

impl Model {
    /// The model of a disk to which nothing was written.
    pub(super) fn new(sectors: u64) -> Self {
        let stripe = sectors / 8;
        let base = |sector: u64| if (sector / stripe).min(7) % 2 == 0 { BASE } else { ZERO };
        let now: Vec<u64> = (0..sectors).map(base).collect();
        let (maybe, unsure) = Default::default();
        Self { flushed: now.clone(), now, maybe, unsure, next_tag: BASE + 1 }
    }

    pub(super) fn sectors(&self) -> u64 {
        self.now.len() as u64
    }

    /// Carry out `op` on `disk`, and [`record`](Self::record) it.
    pub(super) fn run(&mut self, disk: &Disk, op: Op) -> io::Result<()> {
        let result = self.apply(disk, op);
        self.record(op, result.is_ok());
        result
    }

    /// Carry out `op` on `disk`.
    pub(super) fn apply(&self, disk: &Disk, op: Op) -> io::Result<()> {
        let bytes = |n: u64| n * SECTOR as u64;
        match op {
            Op::Write { at, len } => {
                disk.write_at(&content(self.next_tag, at..at + len), bytes(at))
            }
            Op::Zero { at, len } => disk.zero(bytes(at), bytes(len)),
            Op::Flush => disk.flush(),
        }
    }

    /// Record the outcome of `op`.
    pub(super) fn record(&mut self, op: Op, ok: bool) {
        let (at, len, tag) = match op {
            Op::Write { at, len } => (at, len, self.next_tag),
            Op::Zero { at, len } => (at, len, ZERO),
            Op::Flush if ok => {
                self.flushed.clone_from(&self.now);
                // A sector of a failed write is durable as it is, but nobody knows how that is.
                self.maybe.clone_from(&self.unsure);
                return;
            }
            Op::Flush => return,
        };
        if matches!(op, Op::Write { .. }) {
            self.next_tag += 1;
        }
        for sector in at..at + len {
            self.maybe.entry(sector).or_default().push(tag);
            if ok {
                self.now[sector as usize] = tag;
                self.unsure.remove(&sector);
            } else {
                self.unsure.entry(sector).or_default().push(tag);
            }
        }
    }

    /// The disk must show what was acknowledged.
    pub(super) fn check(&self, disk: &dyn ReadAt) {
        self.compare(disk, |sector| (self.now[sector as usize], self.unsure.get(&sector)));
    }

    /// Whether the disk shows exactly what was acknowledged.
    pub(super) fn fits(&self, disk: &dyn ReadAt) -> bool {
        let mut bytes = vec![0; self.now.len() * SECTOR];
        disk.read_at(&mut bytes, 0).is_ok()
            && (0..)
                .zip(bytes.chunks(SECTOR))
                .all(|(sector, found)| fits(found, self.now[sector as usize], sector))
    }

    /// The disk, after a crash, must show what was flushed, or what was written since.
    pub(super) fn check_after_crash(&self, disk: &dyn ReadAt) {
        self.compare(disk, |sector| (self.flushed[sector as usize], self.maybe.get(&sector)));
    }

    fn compare<'a>(
        &'a self,
        disk: &dyn ReadAt,
        allowed: impl Fn(u64) -> (u64, Option<&'a Vec<u64>>),
    ) {
        let mut bytes = vec![0; self.now.len() * SECTOR];
        disk.read_at(&mut bytes, 0).unwrap();
        for (sector, found) in (0..).zip(bytes.chunks(SECTOR)) {
            let (usual, others) = allowed(sector);
            let fits = |tag: &u64| fits(found, *tag, sector);
            if !fits(&usual) && !others.is_some_and(|tags| tags.iter().any(fits)) {
                let from = self.origin(found);
                panic!("sector {sector} shows {from}, not {usual} nor any of {others:?}");
            }
        }
    }

    /// For messages: the tag and the sector of a content.
    fn origin(&self, found: &[u8]) -> String {
        for tag in 0..self.next_tag {
            for sector in 0..self.sectors() {
                if fits(found, tag, sector) {
                    return format!("tag {tag} of sector {sector}");
                }
            }
        }
        format!("{:02x?}…", &found[..16])
    }

    /// The model of a disk that is known to show what `disk` shows now, all of it durable.
    pub(super) fn settle(&mut self, disk: &dyn ReadAt) {
        let mut bytes = vec![0; self.now.len() * SECTOR];
        disk.read_at(&mut bytes, 0).unwrap();
        for (sector, found) in (0..).zip(bytes.chunks(SECTOR)) {
            let others = self.maybe.get(&sector).into_iter().flatten();
            let mut tags = others.chain([&self.flushed[sector as usize]]).copied();
            let shown = tags.find(|tag| fits(found, *tag, sector));
            self.now[sector as usize] = shown.expect("compared before");
        }
        self.flushed.clone_from(&self.now);
        self.maybe.clear();
        self.unsure.clear();
    }
}
