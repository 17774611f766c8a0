//! Crashes at every sync of random workloads, and between: what was flushed is there.

use super::model::{Model, Op, regions};
use super::recorder::{Event, Loss, Recorder, Replay, SECTOR};
use super::{Rng, for_each_seed};
use crate::disk::qcow2::Geometry;
use crate::disk::{Disk, Overlay, Qcow2Overlay, Region, RegionTable, Snapshot};
use std::process::Command;
use std::sync::Arc;

const METADATA: &[u8] = b"layout";

/// A workload that was carried out on an overlay in a [`Recorder`].
struct Run {
    regions: Vec<Region>,
    /// The file before the first operation.
    start: Vec<u8>,
    /// The operations, and the numbers of events before and after each.
    ops: Vec<(Op, usize, usize)>,
    events: Vec<Event>,
    sectors: u64,
}

pub(super) fn disk(regions: &[Region], overlay: impl Overlay + 'static) -> Disk {
    Disk::new(RegionTable::new(regions.to_vec()).unwrap(), Some(Box::new(overlay)))
}

/// Carry out `next` until it returns `None`, on a new overlay; snapshots are taken throughout.
fn run(
    sectors: u64,
    geometry: Geometry,
    rng: &mut Rng,
    mut next: impl FnMut(&mut Rng) -> Option<Op>,
) -> Run {
    let side = tempfile::tempfile().unwrap();
    let recorder = Recorder::default();
    let len = sectors * SECTOR as u64;
    // Closed and opened again, it begins with a seal.
    drop(Qcow2Overlay::create_in(recorder.clone(), len, geometry, METADATA).unwrap());
    let (overlay, _) = Qcow2Overlay::open_in(recorder.clone(), true).unwrap();
    let (start, created) = (recorder.bytes(), recorder.events());
    let regions = regions(sectors);
    let disk = Arc::new(disk(&regions, overlay));
    let mut model = Model::new(sectors);
    let mut ops = Vec::new();
    let mut snapshot: Option<(Snapshot, Model)> = None;
    while let Some(op) = next(rng) {
        let before = recorder.events() - created;
        model.run(&disk, op).unwrap();
        ops.push((op, before, recorder.events() - created));
        if rng.one_in(6) {
            if let Some((old, as_it_was)) = snapshot.take() {
                as_it_was.check(&old);
            }
            snapshot = Some((Snapshot::take(&disk, &side).unwrap(), model.clone()));
        }
    }
    if let Some((old, as_it_was)) = snapshot.take() {
        as_it_was.check(&old);
    }
    model.check(&*disk);
    drop(disk);
    Run { regions, start, ops, events: recorder.history().split_off(created), sectors }
}

impl Run {
    /// What a crash after `at` events may show.
    fn model_at(&self, at: usize) -> Model {
        let mut model = Model::new(self.sectors);
        for (op, before, after) in &self.ops {
            let done = *after <= at;
            if done || (*before < at && !matches!(op, Op::Flush)) {
                model.record(*op, true);
            }
        }
        model
    }

    /// The numbers of events after which to crash: before and after every sync, and somewhere
    /// between.
    fn points(&self, rng: &mut Rng) -> Vec<usize> {
        let mut points = Vec::new();
        let mut last = 0;
        for (n, event) in self.events.iter().enumerate() {
            if matches!(event, Event::Sync) {
                points.push(last + rng.below((n - last + 1) as u64) as usize);
                points.extend([n, n + 1]);
                last = n + 1;
            }
        }
        points
    }
}

/// Open what a crash has left, compare it, and go on working with it.
fn after_crash(bytes: Vec<u8>, run: &Run, model: &Model, rng: &mut Rng) {
    if rng.one_in(64) {
        qemu_img_check(&bytes);
    }
    let recorder = Recorder::holding(bytes);
    let (overlay, metadata) = Qcow2Overlay::open_in(recorder.clone(), true).unwrap();
    assert_eq!(metadata, METADATA);
    let opened = disk(&run.regions, overlay);
    model.check_after_crash(&opened);
    if rng.one_in(8) {
        let mut model = model.clone();
        model.settle(&opened);
        for _ in 0..10 {
            model.run(&opened, Op::random(rng, run.sectors)).unwrap();
        }
        model.check(&opened);
        drop(opened);
        let (overlay, _) = Qcow2Overlay::open_in(recorder, false).unwrap();
        model.check(&disk(&run.regions, overlay));
    }
}

/// `qemu-img check` must find nothing but leaked clusters.
fn qemu_img_check(bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let mut command = Command::new("qemu-img");
    let out = command.args(["check", "-f", "qcow2"]).arg(file.path()).output().unwrap();
    let leaks_only = matches!(out.status.code(), Some(0 | 3));
    assert!(leaks_only, "{}", String::from_utf8_lossy(&out.stdout));
}

/// Crash at each of `points`, which are in order, with several kinds of loss; returns how often.
fn crash_at(run: &Run, points: &[usize], rng: &mut Rng) -> u64 {
    const LOSSES: u64 = 4;
    for losses in 0..LOSSES {
        let mut replay = Replay::new(run.start.clone(), run.events.clone());
        for at in points {
            let loss = match losses {
                0 => Loss::Sectors,
                1 => Loss::Writes,
                2 => Loss::One(rng.next()),
                _ => match rng.below(3) {
                    0 => Loss::Everything,
                    1 => Loss::Nothing,
                    _ => Loss::AllButOne(rng.next()),
                },
            };
            let bytes = replay.crash(*at, loss, rng);
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                after_crash(bytes, run, &run.model_at(*at), &mut Rng(rng.next()));
            }));
            if let Err(panic) = checked {
                eprintln!("crash after {at} of {} events, {loss:?}", run.events.len());
                std::panic::resume_unwind(panic);
            }
        }
    }
    points.len() as u64 * LOSSES
}

/// Random workloads on disks and clusters of random sizes.
#[test]
fn what_was_flushed_survives_a_crash_at_any_moment() {
    for_each_seed(12, "crashes of random workloads", |seed| {
        let rng = &mut Rng(seed);
        let cluster = 1024 << rng.below(4);
        let geometry = Geometry { cluster, refcount_bits: 16 };
        let sectors = 512 + rng.below(1500);
        let mut left = 60;
        let run = run(sectors, geometry, rng, |rng| {
            left -= 1;
            (left > 0).then(|| Op::random(rng, sectors))
        });
        let points = run.points(rng);
        crash_at(&run, &points, rng)
    });
}

/// An overlay that outgrows its refcount table, which then moves.
#[test]
fn the_refcount_table_moves_without_loss() {
    for_each_seed(1, "crashes around a moving refcount table", |seed| {
        let rng = &mut Rng(seed);
        // The 128 entries of a refcount table cover 16 MiB.
        let geometry = Geometry { cluster: 1024, refcount_bits: 64 };
        let sectors = (17 << 20) / SECTOR as u64;
        let mut at = 0;
        let run = run(sectors, geometry, rng, |rng| {
            if at >= sectors {
                return None;
            }
            if rng.one_in(8) {
                return Some(Op::Flush);
            }
            let len = (500 + rng.below(1000)).min(sectors - at);
            at += len;
            Some(Op::Write { at: at - len, len })
        });
        let is_header = |event: &Event| matches!(event, Event::Write { at: 0, .. });
        let moved = run.events.iter().position(is_header).expect("the table has not moved");
        crash_at(&run, &(moved - 12..moved + 12).collect::<Vec<_>>(), rng)
    });
}
