//! Storage in memory that records every change, fails on demand, and can be produced as a crash
//! would have left it.

use super::Rng;
use crate::disk::storage::Storage;
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// Bytes that storage writes as a whole or not at all.
pub(super) const SECTOR: usize = 512;

/// A change of the storage, or a sync.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Write {
        at: u64,
        bytes: Vec<u8>,
    },
    Punch {
        at: u64,
        len: u64,
    },
    SetLen(u64),
    Sync,
    /// A sync that failed: as Linux does, it forgot which pages were not yet stored, so that later
    /// syncs do not store them either.
    FailedSync,
}

/// A call of the storage that can fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Call {
    Read,
    Write,
    Punch,
    SetLen,
    Sync,
}

/// How one call fails.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    /// The number of the call that fails.
    pub(super) call: u64,
    /// The error.
    pub(super) errno: i32,
    /// Whether part of a write is stored before it fails.
    pub(super) partial: bool,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    events: Vec<Event>,
    calls: u64,
    fault: Option<Fault>,
    /// The call that failed.
    failed: Option<Call>,
    /// The next sync fails.
    fail_sync: bool,
}

/// The storage; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorder(Arc<Mutex<State>>);

impl Recorder {
    /// Storage that holds `bytes`, durably.
    pub(super) fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { bytes, ..State::default() })))
    }

    /// Fail one of the calls from now on; they are counted from 0 again.
    pub(super) fn fail(&self, fault: Option<Fault>) {
        let mut state = self.0.lock();
        (state.calls, state.fault, state.failed) = (0, fault, None);
    }

    /// Fail the next sync.
    pub(super) fn fail_next_sync(&self) {
        self.0.lock().fail_sync = true;
    }

    /// Calls since the last [`fail`](Self::fail).
    pub(super) fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// The call that failed, once it has.
    pub(super) fn failed(&self) -> Option<Call> {
        self.0.lock().failed
    }

    /// Number of events so far.
    pub(super) fn events(&self) -> usize {
        self.0.lock().events.len()
    }

    /// All events.
    pub(super) fn history(&self) -> Vec<Event> {
        self.0.lock().events.clone()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().bytes.clone()
    }
}

impl State {
    /// Count a call; the fault if it is the one that fails.
    fn call(&mut self, kind: Call) -> Result<(), Fault> {
        let call = self.calls;
        self.calls += 1;
        match self.fault {
            Some(fault) if fault.call == call => {
                self.failed = Some(kind);
                Err(fault)
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, bytes: &[u8], at: u64) {
        apply_write(&mut self.bytes, bytes, at);
        self.events.push(Event::Write { at, bytes: bytes.to_vec() });
    }
}

fn error(fault: Fault) -> io::Error {
    io::Error::from_raw_os_error(fault.errno)
}

fn apply_write(file: &mut Vec<u8>, bytes: &[u8], at: u64) {
    let end = at as usize + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[at as usize..end].copy_from_slice(bytes);
}

fn apply_punch(file: &mut [u8], at: u64, len: u64) {
    let end = file.len().min((at + len) as usize);
    if let Some(hole) = file.get_mut(at as usize..end) {
        hole.fill(0);
    }
}

impl Storage for Recorder {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call(Call::Read).map_err(error)?;
        let start = offset as usize;
        let stored = state.bytes.get(start..start + buf.len());
        buf.copy_from_slice(stored.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        if let Err(fault) = state.call(Call::Write) {
            if fault.partial {
                let part = (buf.len() / SECTOR).div_ceil(2) * SECTOR;
                state.write(&buf[..part.min(buf.len())], offset);
            }
            return Err(error(fault));
        }
        state.write(buf, offset);
        Ok(())
    }

    fn punch_hole(&self, offset: u64, len: u64) {
        let mut state = self.0.lock();
        if state.call(Call::Punch).is_ok() {
            apply_punch(&mut state.bytes, offset, len);
            state.events.push(Event::Punch { at: offset, len });
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call(Call::SetLen).map_err(error)?;
        state.bytes.resize(len as usize, 0);
        state.events.push(Event::SetLen(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        let outcome = match std::mem::take(&mut state.fail_sync) {
            true => Err(io::Error::from_raw_os_error(libc::EIO)),
            false => state.call(Call::Sync).map_err(error),
        };
        state.events.push(if outcome.is_ok() { Event::Sync } else { Event::FailedSync });
        outcome
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().bytes.len() as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }

    fn file(&self) -> Option<&File> {
        None
    }
}

/// What a crash loses of the writes since the last sync.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    Everything,
    Nothing,
    /// Each sector of each write is lost once in two times.
    Sectors,
    /// Each write is lost once in two times, as a whole.
    Writes,
    /// Only the n-th write is lost, modulo their number.
    One(u64),
    /// All but the n-th write are lost, modulo their number.
    AllButOne(u64),
}

/// Replays a history and produces the file as crashes would have left it.
pub(super) struct Replay {
    events: Vec<Event>,
    durable: Vec<u8>,
    /// Events before this one are durable.
    done: usize,
    /// Events that a failed sync has forgotten: they may or may not be stored.
    forgotten: usize,
}

impl Replay {
    /// A replay of `events`, which began on storage that held `durable`.
    pub(super) fn new(durable: Vec<u8>, events: Vec<Event>) -> Self {
        Self { events, durable, done: 0, forgotten: 0 }
    }

    /// What a crash after the first `at` events leaves. Calls must be in order of `at`.
    pub(super) fn crash(&mut self, at: usize, loss: Loss, rng: &mut Rng) -> Vec<u8> {
        let synced = self.events[..at].iter().rposition(|e| matches!(e, Event::Sync));
        if let Some(synced) = synced.filter(|synced| *synced >= self.done) {
            // What a failed sync has forgotten is lost here as a crash would lose it.
            let failed = self.events[self.done..synced]
                .iter()
                .rposition(|e| matches!(e, Event::FailedSync))
                .map_or(0, |n| self.done + n);
            let from = self.done;
            for index in from..synced {
                let keep = index >= failed || rng.one_in(2);
                apply(&mut self.durable, &self.events[index], &mut |_| keep);
            }
            self.forgotten = self.forgotten.max(failed);
            self.done = synced + 1;
        }
        let pending = &self.events[self.done..at];
        let changes = pending.iter().filter(|e| !matches!(e, Event::FailedSync)).count() as u64;
        let mut file = self.durable.clone();
        for (n, event) in pending.iter().filter(|e| !matches!(e, Event::FailedSync)).enumerate() {
            let n = n as u64;
            let whole = match loss {
                Loss::Everything => Some(false),
                Loss::Nothing => Some(true),
                Loss::Sectors => None,
                Loss::Writes => Some(rng.one_in(2)),
                Loss::One(lost) => Some(n != lost % changes),
                Loss::AllButOne(kept) => Some(n == kept % changes),
            };
            apply(&mut file, event, &mut |_| whole.unwrap_or_else(|| rng.one_in(2)));
        }
        // The length may be durable although what was written there is not.
        if !matches!(loss, Loss::Everything) && rng.one_in(2) {
            let mut len = file.len();
            for event in pending {
                match event {
                    Event::Write { at, bytes } => len = len.max(*at as usize + bytes.len()),
                    Event::SetLen(new) => len = *new as usize,
                    _ => {}
                }
            }
            file.resize(len, 0);
        }
        file
    }
}

/// Apply the parts of `event`, split at sectors, for whose offsets `keep` returns true.
fn apply(file: &mut Vec<u8>, event: &Event, keep: &mut dyn FnMut(u64) -> bool) {
    match event {
        Event::Write { at, bytes } => {
            let mut done = 0;
            while done < bytes.len() {
                let at = at + done as u64;
                let n = (SECTOR - at as usize % SECTOR).min(bytes.len() - done);
                if keep(at) {
                    apply_write(file, &bytes[done..done + n], at);
                }
                done += n;
            }
        }
        Event::Punch { at, len } => {
            for n in 0..len / SECTOR as u64 {
                let at = at + n * SECTOR as u64;
                if keep(at) {
                    apply_punch(file, at, SECTOR as u64);
                }
            }
        }
        Event::SetLen(len) if keep(0) => file.resize(*len as usize, 0),
        Event::SetLen(_) | Event::Sync | Event::FailedSync => {}
    }
}
