//! Snapshots of a disk that is being written, compared with what it showed at that moment.

use crate::common::lanes::{block, last_write};
use crate::common::model::{IMAGE_START, LEN, range, region, table};
use crate::common::process::{run, skip};
use proptest::prelude::*;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use synthdisk::bytes::{Extents, ReadAt, SharedBytes};
use synthdisk::disk::{
    BootPlanner, Chunk, Disk, GapPlan, Overlay, Qcow2Overlay, ReadSet, Region, Scratch, Snapshot,
    Source, Validity,
};

const TMP: &str = "/var/tmp";

/// An unnamed file in `dir`.
fn unnamed(dir: impl AsRef<Path>) -> File {
    tempfile::tempfile_in(dir).unwrap()
}

/// The gap shows bytes from here on the disk: four bytes with an offset, then a "file".
const POINTER: u64 = IMAGE_START + 3 * 512;

/// A gap that follows the partitions after it, as with a guest's kernel: where its bytes come from
/// is decided when planning, and they are read on demand.
struct Follower(Weak<SharedBytes>);

struct Through(Weak<SharedBytes>, u64);

impl ReadAt for Through {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let disk = self.0.upgrade().ok_or(io::ErrorKind::NotFound)?;
        disk.read_at(buf, self.1 + offset)
    }

    fn len(&self) -> u64 {
        LEN - self.1
    }
}

fn follow(disk: &Weak<SharedBytes>) -> Vec<Region> {
    let mut pointer = [0; 4];
    disk.upgrade().unwrap().read_at(&mut pointer, POINTER).unwrap();
    let from = IMAGE_START + u64::from(u32::from_le_bytes(pointer)) % (1 << 20);
    let file = Arc::new(Through(Weak::clone(disk), from));
    vec![
        region(0, 512, Source::Bytes(pointer.repeat(128).into())),
        region(512, IMAGE_START - 512, Source::File(file)),
    ]
}

impl BootPlanner for Follower {
    fn plan(&mut self, reads: &Arc<ReadSet>) -> GapPlan {
        // What it shows may be anywhere on the disk.
        reads.note(0, LEN);
        GapPlan { regions: follow(&self.0), validity: Validity::UntilWritten }
    }

    fn plan_frozen(&self, frozen: &Weak<SharedBytes>) -> Vec<Region> {
        follow(frozen)
    }
}

fn disk(dir: &Path, overlay: impl Overlay + 'static) -> Arc<Disk> {
    let disk = Arc::new(Disk::new(table(dir).0, Some(Box::new(overlay))));
    let weak: Weak<Disk> = Arc::downgrade(&disk);
    let planner = Box::new(Follower(weak));
    disk.set_planner(planner, 0..IMAGE_START, Arc::new(ReadSet::new(LEN)));
    disk.plan_gap();
    disk
}

fn all_of(read: impl FnOnce(&mut [u8]) -> io::Result<()>) -> Vec<u8> {
    let mut bytes = vec![0; LEN as usize];
    read(&mut bytes).unwrap();
    bytes
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Point(u32),
    Take,
    Read(u64, u64),
    ReadAll,
    Drop,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (range(), any::<u8>()).prop_map(|((at, n), b)| Op::Write(at, n, b)),
        3 => range().prop_map(|(at, n)| Op::Zero(at, n)),
        2 => any::<u32>().prop_map(Op::Point),
        3 => Just(Op::Take),
        4 => range().prop_map(|(at, n)| Op::Read(at, n)),
        2 => Just(Op::ReadAll),
        1 => Just(Op::Drop),
    ]
}

/// Both ways to read, and the extents, must agree with `expected`.
fn check(snapshot: &Snapshot, expected: &[u8], (at, n): (u64, u64)) {
    let expected = &expected[at as usize..(at + n) as usize];
    let mut bytes = vec![0; n as usize];
    snapshot.read_at(&mut bytes, at).unwrap();
    assert!(bytes == expected, "read {at}+{n}");
    let mut scratch = Vec::new();
    let bytes = match snapshot.read(at, n as usize, &mut scratch).unwrap() {
        Chunk::Mapped(slice) => slice.for_syscall().to_vec(),
        Chunk::Buffer(buf) => buf.to_vec(),
    };
    assert!(bytes == expected, "read in place {at}+{n}");
    let mut from = at;
    while from < at + n {
        let run = snapshot.extent_at(from).unwrap();
        assert!(run.end > from && run.end <= LEN);
        let end = run.end.min(at + n);
        let bytes = &expected[(from - at) as usize..(end - at) as usize];
        assert!(run.data || bytes.iter().all(|b| *b == 0), "no hole at {from}..{end}");
        from = end;
    }
}

fn run_ops(ops: Vec<Op>, dir: &Path, overlay: impl Overlay + 'static) {
    let disk = disk(dir, overlay);
    let mut taken: Option<(Snapshot, Vec<u8>)> = None;
    for op in ops {
        match op {
            Op::Write(at, n, byte) => {
                let data: Vec<u8> = (0..n).map(|i| byte.wrapping_add(i as u8)).collect();
                disk.write_at(&data, at).unwrap();
            }
            Op::Zero(at, n) => disk.zero(at, n).unwrap(),
            Op::Point(to) => disk.write_at(&to.to_le_bytes(), POINTER).unwrap(),
            Op::Take => {
                let again = Snapshot::take(&disk, &unnamed(TMP));
                match (&taken, again) {
                    (None, Ok(snapshot)) => {
                        taken = Some((snapshot, all_of(|buf| disk.read_at(buf, 0))));
                    }
                    (Some(_), Err(e)) => assert_eq!(e.raw_os_error(), Some(libc::EBUSY)),
                    (_, other) => panic!("{other:?}"),
                }
            }
            Op::Read(at, n) => taken.iter().for_each(|(s, old)| check(s, old, (at, n))),
            Op::ReadAll => taken.iter().for_each(|(s, old)| check(s, old, (0, LEN))),
            Op::Drop => taken = None,
        }
    }
    if let Some((snapshot, old)) = &taken {
        check(snapshot, old, (0, LEN));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_snapshot_over_scratch_stays(ops in prop::collection::vec(op(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        run_ops(ops, dir.path(), Scratch::new(Path::new(TMP), LEN).unwrap());
    }

    #[test]
    fn a_snapshot_over_qcow2_stays(ops in prop::collection::vec(op(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let overlay = Qcow2Overlay::create(&dir.path().join("o"), LEN, b"").unwrap();
        run_ops(ops, dir.path(), overlay);
    }
}

/// A writer per lane goes through its sectors in order, again and again; another one writes the
/// number of its round to both ends of the disk, one after the other. Snapshots taken at any time
/// show of each lane a prefix of one round, and stay the same however often they are read.
fn is_one_moment(overlay: impl Overlay + 'static) {
    const LANES: u64 = 3;
    const SECTORS: u64 = 900;
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), overlay);
    let done = AtomicBool::new(false);
    let acknowledged: Vec<AtomicU64> = (0..LANES).map(|_| AtomicU64::new(0)).collect();
    // Lanes are interleaved, so that they share blocks and clusters.
    let place = |lane: u64, i: u64| IMAGE_START + (8 + i * LANES + lane) * 512;
    disk.zero(place(0, 0), LANES * SECTORS * 512).unwrap();
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let (disk, done, acknowledged) = (&disk, &done, &acknowledged[lane as usize]);
            scope.spawn(move || {
                for n in 1.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    disk.write_at(&block(n, 512), place(lane, (n - 1) % SECTORS)).unwrap();
                    acknowledged.store(n, Ordering::SeqCst);
                }
            });
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut rounds = 0;
        let check = |result: Result<(), String>| {
            if let Err(what) = result {
                done.store(true, Ordering::Relaxed);
                panic!("{what}");
            }
        };
        while Instant::now() < deadline {
            let before: Vec<u64> = acknowledged.iter().map(|n| n.load(Ordering::SeqCst)).collect();
            let snapshot = Snapshot::take(&disk, &unnamed(TMP)).unwrap();
            let after: Vec<u64> = acknowledged.iter().map(|n| n.load(Ordering::SeqCst)).collect();
            let first = all_of(|buf| {
                buf.chunks_mut(5000).zip(0..).try_for_each(|(part, i)| {
                    if i % 100 == 0 {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    snapshot.read_at(part, i * 5000)
                })
            });
            check(if all_of(|buf| snapshot.read_at(buf, 0)) == first {
                Ok(())
            } else {
                Err(format!("round {rounds}: read again, it has changed"))
            });
            for lane in 0..LANES {
                let sectors = (0..SECTORS).map(|i| &first[place(lane, i) as usize..][..512]);
                let last = match last_write(sectors) {
                    Ok(last) => last,
                    Err(e) => {
                        check(Err(format!("round {rounds}: lane {lane}: {e}")));
                        continue;
                    }
                };
                let (least, most) = (before[lane as usize], after[lane as usize] + 1);
                check(if (least..=most).contains(&last) {
                    Ok(())
                } else {
                    Err(format!("round {rounds}: lane {lane}: {last}, not in {least}..={most}"))
                });
            }
            rounds += 1;
        }
        done.store(true, Ordering::Relaxed);
        assert!(rounds > 5, "{rounds} rounds only");
        eprintln!("{rounds} snapshots, {acknowledged:?} writes");
    });
}

#[test]
fn a_snapshot_over_scratch_is_one_moment() {
    is_one_moment(Scratch::new(Path::new(TMP), LEN).unwrap());
}

#[test]
fn a_snapshot_over_qcow2_is_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    is_one_moment(Qcow2Overlay::create(&dir.path().join("o"), LEN, b"").unwrap());
}

/// What was never in the overlay is never copied.
#[test]
fn first_writes_take_no_space() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), Scratch::new(Path::new(TMP), LEN).unwrap());
    let old = all_of(|buf| disk.read_at(buf, 0));
    let snapshot = Snapshot::take(&disk, &unnamed(TMP)).unwrap();
    disk.write_at(&vec![1; LEN as usize], 0).unwrap();
    assert_eq!(snapshot.allocated(), 0);
    check(&snapshot, &old, (0, LEN));
    drop(snapshot);
    // Now the overlay holds it all.
    let snapshot = Snapshot::take(&disk, &unnamed(TMP)).unwrap();
    disk.write_at(&vec![2; LEN as usize], 0).unwrap();
    assert!(snapshot.allocated() >= LEN);
    check(&snapshot, &vec![1; LEN as usize], (0, LEN));
}

/// When the overlay and preserved blocks share a filesystem that fills up, the guest's writes win.
#[test]
fn a_full_filesystem_costs_the_snapshot_and_no_write() {
    if !crate::common::process::is_root() {
        skip("mounting needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=4M", "none", &small.to_string_lossy()]);
    let result = std::panic::catch_unwind(|| {
        let disk = disk(dir.path(), Scratch::new(&small, LEN).unwrap());
        let part = vec![1; 2 << 20];
        disk.write_at(&part, 0).unwrap();
        let snapshot = Snapshot::take(&disk, &unnamed(&small)).unwrap();
        // Two of four MiB are used; preserving these would need more than four.
        disk.write_at(&vec![2; 1 << 20], 0).unwrap();
        check(&snapshot, &part, (0, 2 << 20));
        // The third MiB of the overlay fits only if the snapshot ends.
        disk.write_at(&vec![3; (LEN - (2 << 20)) as usize], 2 << 20).unwrap();
        disk.write_at(&vec![4; 1 << 20], 1 << 20).unwrap();
        let mut byte = [0];
        for at in [0, 1 << 20, LEN - 1] {
            let e = snapshot.read_at(&mut byte, at).unwrap_err();
            assert_eq!(e.raw_os_error(), Some(libc::EIO), "at {at}");
            assert!(snapshot.extent_at(at).is_err() && snapshot.read(at, 1, &mut vec![]).is_err());
        }
        assert_eq!(snapshot.allocated(), 0);
        drop(snapshot);
        let now = all_of(|buf| disk.read_at(buf, 0));
        for (at, value) in [(0, 2), (1 << 20, 4), (2 << 20, 3), (LEN - 1, 3)] {
            assert_eq!(now[at as usize], value, "at {at}");
        }
    });
    run("umount", &["-l", &small.to_string_lossy()]);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// A disk without an overlay has snapshots, too.
#[test]
fn a_read_only_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (table, bytes) = table(dir.path());
    let disk = Arc::new(Disk::new(table, None));
    let snapshot = Snapshot::take(&disk, &unnamed(TMP)).unwrap();
    check(&snapshot, &bytes, (0, LEN));
    // The image file on the way is only read.
    let image = std::fs::File::open(dir.path().join("image")).unwrap();
    let mut byte = [0];
    image.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte[0], bytes[IMAGE_START as usize]);
}
