//! The log of a VHDX: changes to its tables that may not have reached their places.
//!
//! Source: [MS-VHDX] 2.3 "Log", 2.3.3 "Log Replay".

use super::header::{Header, corrupt, is_intact, u32_at, u64_at, uuid_at};
use super::patched::{Change, PAGE};
use crate::image::stored_file::StoredFile;
use crate::{Error, ErrorKind, Result};
use std::cell::Cell;

/// Unit of the log, in bytes.
const SECTOR: u64 = 4096;
/// Longest log that is read, in bytes. Hyper-V's and QEMU's have 1 MiB.
const MAX_LOG: u64 = 64 << 20;
/// How often the bytes of a log may be looked at in all: twice for what counts, and more for entries
/// that were overwritten in part.
const MAX_LOOKS: u64 = 8;
/// Length of an entry's header, and of a descriptor, in bytes.
const ENTRY_HEADER: usize = 64;
const DESCRIPTOR: usize = 32;

/// An intact entry of the log.
struct Entry {
    sequence: u64,
    /// Length, in bytes.
    len: u64,
    /// Offset of the first entry of its sequence in the log, in bytes.
    tail: u64,
    /// Least length of the file when the entry was written, in bytes.
    file_len: u64,
    bytes: Vec<u8>,
    descriptors: usize,
}

/// The changes that the log of `file` contains, in order.
///
/// # Errors
/// Errors of the file; `Corrupt` for a log that is damaged, or a file that is shorter than it was.
pub(super) fn replay(file: &StoredFile, header: &Header) -> Result<Vec<Change>> {
    if header.log_id.is_nil() {
        return Ok(Vec::new());
    }
    let len = header.log_len;
    if len == 0 || len % SECTOR != 0 || len > MAX_LOG {
        let what = format!("its log has {len} bytes; up to {MAX_LOG} are read");
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    let mut log = vec![0; len as usize];
    file.read(&mut log, header.log_offset).map_err(|e| Error::io("cannot read its log", e))?;
    let ring = Ring { log: &log, header, budget: Cell::new(len * MAX_LOOKS) };
    let entries = ring.active_sequence()?;
    let mut changes = Vec::new();
    for entry in &entries {
        if entry.file_len > file.len() {
            return Err(corrupt(format!(
                "the file has {} bytes, and its log says that it had {}; it was cut short",
                file.len(),
                entry.file_len
            )));
        }
        entry.changes(&mut changes)?;
    }
    Ok(changes)
}

/// The log, whose end is followed by its beginning.
struct Ring<'a> {
    log: &'a [u8],
    header: &'a Header,
    /// Bytes that may still be looked at.
    budget: Cell<u64>,
}

impl Ring<'_> {
    fn len(&self) -> u64 {
        self.log.len() as u64
    }

    /// `len` bytes at `at`.
    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let (first, rest) = self.log.split_at((at % self.len()) as usize);
        let (part, wrapped) = (len.min(rest.len()), len.saturating_sub(rest.len()));
        [&rest[..part], &first[..wrapped.min(first.len())]].concat()
    }

    /// The intact entry at `at`.
    fn entry(&self, at: u64) -> Option<Entry> {
        let head = self.bytes(at, ENTRY_HEADER);
        let len = u64::from(u32_at(&head, 8));
        let fits = len >= SECTOR && len % SECTOR == 0 && len <= self.len();
        if !head.starts_with(b"loge") || !fits || uuid_at(&head, 32) != self.header.log_id {
            return None;
        }
        self.budget.set(self.budget.get().checked_sub(len)?);
        let bytes = self.bytes(at, len as usize);
        let (tail, sequence) = (u64::from(u32_at(&head, 12)), u64_at(&head, 16));
        let descriptors = u32_at(&head, 24) as usize;
        let fits = tail % SECTOR == 0 && tail < self.len() && sequence > 0;
        let whole = descriptors <= bytes.len() / DESCRIPTOR && is_intact(&bytes);
        let file_len = u64_at(&head, 48);
        (fits && whole).then_some(Entry { sequence, len, tail, file_len, bytes, descriptors })
    }

    /// The entries that must be replayed: of all runs of intact entries with consecutive numbers that
    /// include their own tail, the one with the highest number.
    fn active_sequence(&self) -> Result<Vec<Entry>> {
        // Each entry is looked at once as the start of a run: runs that begin within another end where
        // that ends, so only the longest of them counts.
        let mut best: Option<(u64, u64)> = None;
        let mut at = 0;
        while at < self.len() {
            let Some(entry) = self.entry(at) else {
                at += SECTOR;
                continue;
            };
            let (mut end, mut last) = (at + entry.len, entry);
            while end - at < self.len() {
                let next = self.entry(end).filter(|next| {
                    next.sequence == last.sequence.wrapping_add(1)
                        && end - at + next.len <= self.len()
                });
                let Some(next) = next else { break };
                end += next.len;
                last = next;
            }
            if best.is_none_or(|(sequence, _)| last.sequence > sequence) {
                best = Some((last.sequence, last.tail));
            }
            at = end;
        }
        let none = || corrupt("its log is not empty, and contains no intact sequence of entries");
        let (head, tail) = best.ok_or_else(none)?;
        let (mut entries, mut at, mut used): (Vec<Entry>, _, _) = (Vec::new(), tail, 0);
        loop {
            let follows = |entry: &Entry| {
                entries.last().is_none_or(|last| entry.sequence == last.sequence.wrapping_add(1))
            };
            let entry = self.entry(at).filter(follows).ok_or_else(none)?;
            used += entry.len;
            if entry.sequence > head || used > self.len() {
                return Err(none());
            }
            at += entry.len;
            let is_head = entry.sequence == head;
            entries.push(entry);
            if is_head {
                return Ok(entries);
            }
        }
    }
}

impl Entry {
    /// Add what the entry changes.
    fn changes(&self, out: &mut Vec<Change>) -> Result<()> {
        let damaged = || corrupt("an entry of its log is damaged");
        let described = ENTRY_HEADER + self.descriptors * DESCRIPTOR;
        let mut data = described.next_multiple_of(SECTOR as usize);
        for number in 0..self.descriptors {
            let at = ENTRY_HEADER + number * DESCRIPTOR;
            let descriptor = self.bytes.get(at..at + DESCRIPTOR).ok_or_else(damaged)?;
            let at = u64_at(descriptor, 16);
            if u64_at(descriptor, 24) != self.sequence || at % SECTOR != 0 {
                return Err(damaged());
            }
            if descriptor.starts_with(b"zero") {
                out.push(Change::Zeros { at, len: u64_at(descriptor, 8) });
                continue;
            }
            let sector = self.bytes.get(data..data + PAGE).ok_or_else(damaged)?;
            let sequence = u64::from(u32_at(sector, 4)) << 32 | u64::from(u32_at(sector, 4092));
            if !descriptor.starts_with(b"desc")
                || !sector.starts_with(b"data")
                || sequence != self.sequence
            {
                return Err(damaged());
            }
            // The ends of the page are in the descriptor, because a mark and a number replace them.
            let mut bytes = Box::new([0; PAGE]);
            bytes.copy_from_slice(sector);
            bytes[..8].copy_from_slice(&descriptor[8..16]);
            bytes[4092..].copy_from_slice(&descriptor[4..8]);
            out.push(Change::Data { at, bytes });
            data += PAGE;
        }
        Ok(())
    }
}
