//! The boot gap: how MBR, loader, parameters, command line, kernel and initrd lie in it.

use super::guest::GuestWish;
use super::payload::{BootSummary, Candidate, Payload, PayloadFile, from_guest};
use super::roots::CmdlineRules;
use crate::bytes::{ReadAt, SharedBytes};
use crate::disk::{BootPlanner, Region, RegionKind, Source};
use crate::layout::{Gpt, Ids, Layout, SECTOR, TableKind, mbr_sector};
use crate::loader::direct::Params;
use crate::loader::direct::{
    CMDLINE_LBA, CMDLINE_MAX, KERNEL_LBA, PARAMS_LBA, STAGE1, STAGE2, STAGE2_BYTES, STAGE2_LBA,
};
use crate::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::io;
use std::sync::{Arc, Weak};

/// Least length of a gap that the direct loader uses, in bytes. Room for what a guest may install
/// later costs nothing: it is zeros.
pub const MIN_GAP: u64 = 64 << 20;
/// Kernel and initrd start at multiples of this many bytes.
const FILE_ALIGN: u64 = 4096;
/// Initrds that follow each other start at multiples of this (kernel
/// Documentation/driver-api/early-userspace/buffer-format.rst).
const INITRD_ALIGN: u64 = 4;

/// Length in bytes of the gap that `payload` asks for: twice what it needs, so that an overlay in
/// which the guest installs a larger kernel still has room.
pub(super) fn wanted_gap(payload: &Payload) -> u64 {
    place(payload).1.saturating_mul(2).max(MIN_GAP)
}

/// Where each file starts, and where the last one ends, in bytes.
fn place(payload: &Payload) -> (Vec<u64>, u64) {
    let mut end = KERNEL_LBA * SECTOR + payload.kernel.len;
    let mut starts = vec![KERNEL_LBA * SECTOR];
    for (i, initrd) in payload.initrds.iter().enumerate() {
        let align = if i == 0 { FILE_ALIGN } else { INITRD_ALIGN };
        let start = end.next_multiple_of(align);
        starts.push(start);
        end = start.saturating_add(initrd.len);
    }
    (starts, end)
}

/// Collects regions; what lies between them becomes zeros.
struct Regions {
    regions: Vec<Region>,
    end: u64,
}

impl Regions {
    fn zeros_up_to(&mut self, start: u64) {
        if start > self.end {
            self.regions.push(Region {
                start: self.end,
                len: start - self.end,
                kind: RegionKind::Gap,
                origin: "zeros".into(),
                source: Source::Zeros,
            });
            self.end = start;
        }
    }

    fn push(&mut self, start: u64, len: u64, kind: RegionKind, origin: &str, source: Source) {
        self.zeros_up_to(start);
        self.regions.push(Region { start, len, kind, origin: origin.into(), source });
        self.end = start + len;
    }

    fn bytes(&mut self, start: u64, kind: RegionKind, origin: &str, bytes: &[u8]) {
        self.push(start, bytes.len() as u64, kind, origin, Source::Bytes(bytes.into()));
    }
}

/// The sectors that describe the disk.
#[derive(Clone, Debug)]
pub(super) struct TableBytes {
    /// Sector 0.
    pub(super) mbr: [u8; SECTOR as usize],
    /// Header and entries of a GPT, from sector 1 on.
    pub(super) primary: Vec<u8>,
    /// The same for the end of the disk.
    pub(super) backup: Vec<u8>,
}

impl TableBytes {
    /// The table of `layout`, with the direct loader's first stage if `loader`.
    pub(super) fn new(layout: &Layout, ids: &Ids, loader: bool) -> Result<Self> {
        let code: &[u8] = if loader { STAGE1 } else { &[] };
        Ok(match layout.table {
            TableKind::Mbr => {
                let mbr = mbr_sector(layout, ids.disk_id, code)?;
                Self { mbr, primary: Vec::new(), backup: Vec::new() }
            }
            TableKind::Gpt => {
                let Gpt { mbr, primary, backup } = Gpt::encode(layout, ids, code)?;
                Self { mbr, primary, backup }
            }
        })
    }

    fn push(&self, origin: &str, out: &mut Regions) {
        out.bytes(0, RegionKind::Mbr, origin, &self.mbr);
        if !self.primary.is_empty() {
            out.bytes(SECTOR, RegionKind::Table, "GPT", &self.primary);
        }
    }
}

/// The gap without a loader: the table, then zeros up to `gap_end`.
pub(super) fn empty_gap(table: &TableBytes, gap_end: u64) -> Vec<Region> {
    let mut out = Regions { regions: Vec::new(), end: 0 };
    table.push("partition table", &mut out);
    out.zeros_up_to(gap_end);
    out.regions
}

/// The gap with the direct loader, which starts `payload`, or says why it cannot.
pub(super) fn direct_gap(
    table: &TableBytes,
    payload: &Result<Payload>,
    gap_end: u64,
) -> Vec<Region> {
    let mut out = Regions { regions: Vec::new(), end: 0 };
    table.push("loader, stage 1, and partition table", &mut out);
    debug_assert_eq!(STAGE2.len(), STAGE2_BYTES);
    out.bytes(STAGE2_LBA * SECTOR, RegionKind::Loader, "loader, stage 2", STAGE2);
    let fits = |p: &Payload| place(p).1 <= gap_end;
    match payload {
        Ok(payload) if fits(payload) => loaded(&mut out, payload),
        Ok(_) => {
            let message = "the guest's kernel and initrd have outgrown this disk's boot gap; \
                           start with a new overlay";
            refused(&mut out, message);
        }
        Err(e) => refused(&mut out, &e.to_string()),
    }
    out.zeros_up_to(gap_end);
    out.regions
}

fn loaded(out: &mut Regions, payload: &Payload) {
    let (starts, end) = place(payload);
    let params = Params {
        token: token(payload),
        kernel_lba: KERNEL_LBA,
        kernel_bytes: payload.kernel.len,
        initrd: starts.get(1).map(|start| (start / SECTOR, end - start)),
        cmdline_bytes: payload.cmdline.len() as u32,
        message: None,
    };
    out.bytes(PARAMS_LBA * SECTOR, RegionKind::Parameters, "loader's parameters", &params.encode());
    let mut cmdline = payload.cmdline.clone().into_bytes();
    cmdline.resize(CMDLINE_MAX + 1, 0);
    out.bytes(CMDLINE_LBA * SECTOR, RegionKind::CommandLine, "kernel command line", &cmdline);
    let mut file = |start: u64, kind, file: &PayloadFile| {
        out.push(start, file.len, kind, &file.origin, file.source.clone());
    };
    file(starts[0], RegionKind::Kernel, &payload.kernel);
    for (start, initrd) in starts[1..].iter().zip(&payload.initrds) {
        file(*start, RegionKind::Initrd, initrd);
    }
}

fn refused(out: &mut Regions, message: &str) {
    let params = Params { message: Some(message.to_owned()), ..Params::default() };
    out.bytes(PARAMS_LBA * SECTOR, RegionKind::Parameters, "loader's parameters", &params.encode());
}

/// Changes whenever kernel, initrd or command line do.
fn token(payload: &Payload) -> [u8; 16] {
    let files = std::iter::once(&payload.kernel).chain(&payload.initrds);
    let mut parts = vec![payload.cmdline.clone().into_bytes()];
    for file in files {
        parts.push(file.origin.clone().into_bytes());
        parts.push(file.len.to_le_bytes().to_vec());
        parts.push(file.identity.clone());
    }
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    *Ids::fingerprint(&parts).as_bytes()
}

/// Plans the gap from what the guest has installed, as seen through the disk itself.
pub(super) struct GuestPlanner {
    /// Partitions that may hold the boot configuration, in the order in which they are tried, with
    /// their index among the rules' partitions.
    pub(super) candidates: Vec<Candidate<PartitionReader>>,
    /// Partitions of further disks, which may hold the root filesystem.
    pub(super) others: Vec<Candidate<PartitionReader>>,
    pub(super) table: TableBytes,
    pub(super) gap_end: u64,
    pub(super) wish: GuestWish,
    pub(super) rules: CmdlineRules,
    /// The outcome of the latest planning.
    pub(super) latest: Arc<Mutex<Result<BootSummary>>>,
}

impl BootPlanner for GuestPlanner {
    fn plan(&mut self) -> Vec<Region> {
        let payload = from_guest(&self.candidates, &self.others, &self.wish, &self.rules);
        let regions = direct_gap(&self.table, &payload, self.gap_end);
        *self.latest.lock() = payload.map(|p| p.summary);
        regions
    }

    fn plan_frozen(&self, frozen: &Weak<SharedBytes>) -> Vec<Region> {
        let frozen = |(index, reader): &Candidate<PartitionReader>| {
            (*index, PartitionReader { disk: Weak::clone(frozen), ..reader.clone() })
        };
        // Further disks have moments of their own.
        let candidates: Vec<_> = self.candidates.iter().map(frozen).collect();
        let payload = from_guest(&candidates, &self.others, &self.wish, &self.rules);
        direct_gap(&self.table, &payload, self.gap_end)
    }
}

/// Summary slot before the first planning.
pub(super) fn not_planned() -> Arc<Mutex<Result<BootSummary>>> {
    Arc::new(Mutex::new(Err(Error::new(ErrorKind::NotFound, "nothing was planned yet"))))
}

/// A partition of the disk as the guest room wants to read it. Holds the disk weakly: the disk's
/// own regions hold this.
#[derive(Clone, Debug)]
pub struct PartitionReader {
    pub(super) disk: Weak<SharedBytes>,
    pub(super) start: u64,
    pub(super) len: u64,
}

impl ReadAt for PartitionReader {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let gone = || io::Error::other("the disk is being closed");
        self.disk.upgrade().ok_or_else(gone)?.read_at(buf, self.start + offset)
    }

    fn len(&self) -> u64 {
        self.len
    }
}
