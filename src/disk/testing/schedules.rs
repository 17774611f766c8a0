//! Interleavings of threads that write, take snapshots, read them and read the boot gap: the code
//! of `serve`, `replanning`, `snapshot` and `preserved` runs on locks and atomics that `shuttle` controls.
//!
//! `cargo test --features schedules --lib disk::testing::schedules`; `SYNTHDISK_SCHEDULES` sets how
//! many schedules of each kind are run. A failure prints the schedule, which `shuttle::replay` runs
//! again. `shuttle` finds wrong orders, not wrong memory orderings: all its operations are
//! sequentially consistent.

use crate::bytes::{ReadAt, SharedBytes};
use crate::disk::overlay::{Base, Overlay, Run};
use crate::disk::{
    BootPlanner, Disk, GapPlan, ReadSet, Region, RegionKind, RegionTable, Snapshot, Source,
    Validity,
};
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;
use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};

/// Bytes per unit of the overlay, and units of the disk; the first one is the boot gap.
const UNIT: usize = 4096;
const UNITS: usize = 5;

/// An overlay that stores one byte value per half of a unit. Other threads run between the halves,
/// so readers meet writes that are half done.
#[derive(Debug, Default)]
struct Halves([AtomicU64; UNITS * 2]);

impl Halves {
    fn half(at: u64) -> usize {
        at as usize / (UNIT / 2)
    }
}

/// The value of a half to which nothing was written; the base shows zeros there.
const UNWRITTEN: u64 = 0;

impl Overlay for Halves {
    fn run_at(&self, offset: u64, max: u64) -> io::Result<(Run, u64)> {
        let unit = offset as usize / UNIT * 2;
        let written = |half: usize| self.0[half].load(Ordering::SeqCst) != UNWRITTEN;
        let run = if written(unit) || written(unit + 1) { Run::Data } else { Run::Base };
        Ok((run, max.min(UNIT as u64 - offset % UNIT as u64)))
    }

    fn place_at(&self, _offset: u64, _max: u64) -> io::Result<Option<(&File, u64, u64)>> {
        Ok(None)
    }

    fn read_at(&self, base: &dyn Base, buf: &mut [u8], offset: u64) -> io::Result<()> {
        for (n, part) in buf.chunks_mut(UNIT / 2).enumerate() {
            match self.0[Self::half(offset) + n].load(Ordering::SeqCst) {
                UNWRITTEN => base.read_at(part, offset + (n * UNIT / 2) as u64)?,
                value => part.fill(value as u8),
            }
        }
        Ok(())
    }

    fn write_at(&self, _base: &dyn Base, buf: &[u8], offset: u64) -> io::Result<()> {
        for (n, part) in buf.chunks(UNIT / 2).enumerate() {
            self.0[Self::half(offset) + n].store(u64::from(part[0]), Ordering::SeqCst);
        }
        Ok(())
    }

    fn zero(&self, base: &dyn Base, offset: u64, len: u64) -> io::Result<()> {
        self.write_at(base, &vec![0; len as usize], offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_limit(&self, _limit: u64) {}

    fn limit(&self) -> Option<u64> {
        None
    }

    fn allocated(&self) -> u64 {
        0
    }

    fn cow_granularity(&self) -> u64 {
        UNIT as u64
    }
}

fn region(start: usize, units: usize, source: Source) -> Region {
    let (start, len) = ((start * UNIT) as u64, (units * UNIT) as u64);
    Region { start, len, kind: RegionKind::Gap, origin: String::new(), source }
}

fn disk() -> Arc<Disk> {
    let regions = vec![region(0, 1, Source::Zeros), region(1, UNITS - 1, Source::Zeros)];
    let table = RegionTable::new(regions).unwrap();
    Arc::new(Disk::new(table, Some(Box::new(Halves::default()))))
}

fn write(disk: &Disk, unit: usize, value: u8) {
    disk.write_at(&[value; UNIT], (unit * UNIT) as u64).unwrap();
}

/// The value of a unit, which must be the same in both halves.
fn read(source: &dyn ReadAt, unit: usize) -> u8 {
    let mut bytes = vec![0; UNIT];
    source.read_at(&mut bytes, (unit * UNIT) as u64).unwrap();
    assert_eq!(bytes[0], bytes[UNIT / 2], "unit {unit} is of two moments");
    bytes[0]
}

/// Run `test` under random schedules, and under those that delay threads at few places.
fn schedules(test: impl Fn() + Send + Sync + Clone + 'static) {
    let count = std::env::var("SYNTHDISK_SCHEDULES").ok().and_then(|n| n.parse().ok());
    let count = count.unwrap_or(1000);
    shuttle::check_random(test.clone(), count);
    shuttle::check_pct(test, count, 3);
}

/// Two writers, each to one unit; a snapshot in between. It shows one moment: a value that was
/// acknowledged before it, none that was written after, and the same at the end as at the start.
#[test]
fn a_snapshot_is_of_one_moment_and_stays() {
    schedules(|| {
        let side = tempfile::tempfile().unwrap();
        let disk = disk();
        // Units 1 and 2 are stored in the overlay, 3 is not.
        write(&disk, 1, 1);
        write(&disk, 2, 1);
        let writers: Vec<_> = [1, 2, 3]
            .into_iter()
            .map(|unit| {
                let disk = Arc::clone(&disk);
                thread::spawn(move || {
                    write(&disk, unit, 2);
                    write(&disk, unit, 3);
                })
            })
            .collect();
        let snapshot = Snapshot::take(&disk, &side).unwrap();
        let first = [1, 2, 3].map(|unit| read(&snapshot, unit));
        let second = [1, 2, 3].map(|unit| read(&snapshot, unit));
        assert_eq!(first, second);
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(first, [1, 2, 3].map(|unit| read(&snapshot, unit)));
        drop(snapshot);
        assert_eq!([1, 2, 3].map(|unit| read(&*disk, unit)), [3; 3]);
    });
}

/// One writer writes two units in order. The snapshot never has the second without the first.
#[test]
fn a_snapshot_respects_the_order_of_a_writer() {
    schedules(|| {
        let side = tempfile::tempfile().unwrap();
        let disk = disk();
        write(&disk, 1, 1);
        let writer = {
            let disk = Arc::clone(&disk);
            thread::spawn(move || {
                for value in [2, 3] {
                    write(&disk, 1, value);
                    write(&disk, 2, value);
                }
            })
        };
        let snapshot = Snapshot::take(&disk, &side).unwrap();
        let shown = [1, 2].map(|unit| read(&snapshot, unit));
        assert!([[1, 0], [2, 0], [2, 2], [3, 2], [3, 3]].contains(&shown), "{shown:?}");
        writer.join().unwrap();
        assert_eq!([1, 2].map(|unit| read(&snapshot, unit)), shown);
    });
}

/// Plans a gap that shows what unit 1 shows.
struct FollowsUnit1(Weak<Disk>);

fn gap(value: u8) -> Vec<Region> {
    vec![region(0, 1, Source::Bytes(vec![value; UNIT].into()))]
}

impl BootPlanner for FollowsUnit1 {
    fn plan(&mut self, reads: &Arc<ReadSet>) -> GapPlan {
        reads.note(UNIT as u64, UNIT as u64 / 2);
        let regions = gap(self.0.upgrade().map_or(0, |disk| read_half(&*disk)));
        GapPlan { regions, validity: Validity::UntilWritten }
    }

    fn plan_frozen(&self, frozen: &Weak<SharedBytes>) -> Vec<Region> {
        gap(frozen.upgrade().map_or(0, |frozen| read_half(&*frozen)))
    }
}

/// A disk whose gap follows unit 1, of which the first plan has read nothing yet.
fn disk_with_gap() -> Arc<Disk> {
    let disk = disk();
    let planner = Box::new(FollowsUnit1(Arc::downgrade(&disk)));
    let reads = Arc::new(ReadSet::new((UNITS * UNIT) as u64));
    disk.set_planner(planner, 0..UNIT as u64, reads);
    disk.plan_gap();
    disk
}

/// The value of the first half of unit 1: while it is planned, the guest may be writing.
fn read_half(source: &dyn ReadAt) -> u8 {
    let mut bytes = [0; UNIT / 2];
    source.read_at(&mut bytes, UNIT as u64).unwrap();
    bytes[0]
}

/// The gap is never older than the last write that was acknowledged, for any of several readers.
#[test]
fn the_gap_is_never_older_than_an_acknowledged_write() {
    schedules(|| {
        let disk = disk_with_gap();
        let acknowledged = Arc::new(AtomicU64::new(0));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (disk, acknowledged) = (Arc::clone(&disk), Arc::clone(&acknowledged));
                thread::spawn(move || {
                    for _ in 0..2 {
                        let at_least = acknowledged.load(Ordering::SeqCst);
                        let shown = u64::from(read(&*disk, 0));
                        assert!(shown >= at_least, "{shown} after {at_least} was acknowledged");
                    }
                })
            })
            .collect();
        for value in 1..4 {
            write(&disk, 1, value);
            acknowledged.store(u64::from(value), Ordering::SeqCst);
        }
        for reader in readers {
            reader.join().unwrap();
        }
        assert_eq!(read(&*disk, 0), 3);
    });
}

/// The gap of a snapshot is that of its moment.
#[test]
fn the_gap_of_a_snapshot_fits_it() {
    schedules(|| {
        let side = tempfile::tempfile().unwrap();
        let disk = disk_with_gap();
        let writer = {
            let disk = Arc::clone(&disk);
            thread::spawn(move || (1..4).for_each(|value| write(&disk, 1, value)))
        };
        let snapshot = Snapshot::take(&disk, &side).unwrap();
        assert_eq!(read(&snapshot, 0), read(&snapshot, 1));
        writer.join().unwrap();
        assert_eq!(read(&snapshot, 0), read(&snapshot, 1));
    });
}
