//! Errors at every call of the storage: no panic, nothing wrong is shown, and nothing is called
//! durable that is not.

use super::crash::disk;
use super::model::{Model, Op, regions};
use super::recorder::{Call, Fault, Loss, Recorder, Replay, SECTOR};
use super::{Rng, for_each_seed};
use crate::disk::qcow2::Geometry;
use crate::disk::{Disk, Qcow2Overlay, Region, Scratch, Snapshot};
use std::sync::Arc;

/// Sectors of the disk.
const SECTORS: u64 = 700;
const LEN: u64 = SECTORS * SECTOR as u64;
/// Operations of a workload.
const OPS: usize = 25;

#[derive(Clone, Copy)]
enum Kind {
    Temporary,
    Persistent,
}

fn new_disk(kind: Kind, recorder: &Recorder, regions: &[Region]) -> Arc<Disk> {
    Arc::new(match kind {
        Kind::Temporary => disk(regions, Scratch::new_in(recorder.clone(), LEN).unwrap()),
        Kind::Persistent => {
            let geometry = Geometry { cluster: 1024, refcount_bits: 16 };
            disk(regions, Qcow2Overlay::create_in(recorder.clone(), LEN, geometry, b"x").unwrap())
        }
    })
}

/// Carry out the workload of `seed` with `fault`; the number of calls that it made.
fn run(kind: Kind, seed: u64, fault: Option<Fault>) -> u64 {
    let side = tempfile::tempfile().unwrap();
    let recorder = Recorder::default();
    let regions = regions(SECTORS);
    let disk = new_disk(kind, &recorder, &regions);
    let (start, created) = (recorder.bytes(), recorder.events());
    let rng = &mut Rng(seed);
    let mut model = Model::new(SECTORS);
    let mut snapshot: Option<(Snapshot, Model)> = None;
    recorder.fail(fault);
    for n in 0..OPS {
        let op = Op::random(rng, SECTORS);
        let before = recorder.failed();
        let result = model.run(&disk, op);
        // Only the call that fails may cost an operation. After a failed sync, or when a table
        // could not be read in order to change it, all flushes fail.
        let injected = recorder.failed() != before;
        let gave_up = matches!(before, Some(Call::Sync | Call::Read)) && matches!(op, Op::Flush);
        if let Err(e) = result {
            assert!(injected || gave_up, "{op:?}: {e}");
        }
        if n == OPS / 3 {
            snapshot = Snapshot::take(&disk, &side).ok().map(|taken| (taken, model.clone()));
        }
        if recorder.failed().is_some() {
            // What it shows now, it shows next time.
            let mut twice = [vec![0; LEN as usize], vec![0; LEN as usize]];
            let reads = twice
                .each_mut()
                .map(|bytes| crate::bytes::ReadAt::read_at(&*disk, bytes, 0).is_ok());
            if reads == [true; 2] {
                assert!(twice[0] == twice[1]);
                model.check(&*disk);
            }
        }
    }
    let calls = recorder.calls();
    recorder.fail(None);
    model.check(&*disk);
    if let Some((snapshot, as_it_was)) = snapshot {
        let mut byte = [0];
        // Either it is complete, or every read fails.
        if crate::bytes::ReadAt::read_at(&snapshot, &mut byte, 0).is_ok() {
            as_it_was.check(&snapshot);
        }
    }
    let events = recorder.history().split_off(created);
    if let Kind::Persistent = kind {
        // The overlay after a crash now, and after a proper end.
        for loss in [Loss::Everything, Loss::Sectors, Loss::Nothing] {
            let mut replay = Replay::new(start.clone(), events.clone());
            let bytes = replay.crash(events.len(), loss, rng);
            let (overlay, _) = Qcow2Overlay::open_in(Recorder::holding(bytes), true).unwrap();
            model.check_after_crash(&super::crash::disk(&regions, overlay));
        }
    }
    calls
}

fn every_call(kind: Kind, seeds: u64) {
    let things = match kind {
        Kind::Temporary => "failed calls under a temporary overlay",
        Kind::Persistent => "failed calls under a persistent overlay",
    };
    for_each_seed(seeds, things, |seed| {
        let calls = run(kind, seed, None);
        for call in 0..calls {
            let errno = if call % 2 == 0 { libc::EIO } else { libc::ENOSPC };
            let fault = Fault { call, errno, partial: call % 3 == 0 };
            let outcome = std::panic::catch_unwind(|| run(kind, seed, Some(fault)));
            if let Err(panic) = outcome {
                eprintln!("{fault:?}");
                std::panic::resume_unwind(panic);
            }
        }
        calls
    });
}

#[test]
fn a_persistent_overlay_survives_an_error_of_any_call() {
    every_call(Kind::Persistent, 3);
}

#[test]
fn a_temporary_overlay_survives_an_error_of_any_call() {
    every_call(Kind::Temporary, 3);
}

/// After a failed sync, the kernel has forgotten what it could not store: a later sync succeeds
/// without storing it. No flush may report success from then on.
#[test]
fn no_flush_succeeds_after_a_failed_one() {
    let recorder = Recorder::default();
    let regions = regions(SECTORS);
    let disk = new_disk(Kind::Persistent, &recorder, &regions);
    let mut model = Model::new(SECTORS);
    model.run(&disk, Op::Write { at: 0, len: 10 }).unwrap();
    model.run(&disk, Op::Flush).unwrap();
    model.run(&disk, Op::Write { at: 5, len: 10 }).unwrap();
    recorder.fail_next_sync();
    model.run(&disk, Op::Flush).unwrap_err();
    model.run(&disk, Op::Write { at: 20, len: 10 }).unwrap();
    for _ in 0..3 {
        assert_eq!(disk.flush().unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    model.check(&*disk);
}
