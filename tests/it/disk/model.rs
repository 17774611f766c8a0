//! The read and write paths against a reference model: a disk that is a plain `Vec<u8>`.

use crate::common::model::{LEN, range, table};
use crate::common::overlay::unlocked;
use proptest::prelude::*;
use std::path::Path;
use std::time::{Duration, Instant};
use synthdisk::bytes::{Extents, ReadAt};
use synthdisk::disk::{Chunk, Disk, Overlay, Qcow2Overlay, RegionTable, Scratch};

#[derive(Clone, Debug)]
enum Op {
    Read(u64, u64),
    Write(u64, u64, u8),
    Zero(u64, u64),
    Flush,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => range().prop_map(|(at, n)| Op::Read(at, n)),
        6 => (range(), any::<u8>()).prop_map(|((at, n), b)| Op::Write(at, n, b)),
        3 => range().prop_map(|(at, n)| Op::Zero(at, n)),
        1 => Just(Op::Flush),
        1 => Just(Op::Reopen),
    ]
}

fn read(disk: &Disk, at: u64, n: u64) -> Vec<u8> {
    let mut scratch = Vec::new();
    let bytes = match disk.read(at, n as usize, &mut scratch).unwrap() {
        Chunk::Mapped(slice) => slice.for_syscall().to_vec(),
        Chunk::Buffer(buf) => buf.to_vec(),
    };
    let mut again = vec![0; n as usize];
    disk.read_at(&mut again, at).unwrap();
    assert!(bytes == again, "the two ways to read differ at {at}+{n}");
    bytes
}

/// Holes must read as zeros, and the runs must cover the disk.
fn check_extents(disk: &Disk, model: &[u8]) {
    let mut at = 0;
    while at < LEN {
        let run = disk.extent_at(at).unwrap();
        assert!(run.end > at && run.end <= LEN);
        if !run.data {
            assert!(model[at as usize..run.end as usize].iter().all(|b| *b == 0));
        }
        at = run.end;
    }
}

fn run(ops: Vec<Op>, open: impl Fn(Option<Disk>, RegionTable) -> Disk) {
    let dir = tempfile::tempdir().unwrap();
    let (first, mut model) = table(dir.path());
    let mut disk = open(None, first);
    for op in ops {
        match op {
            Op::Read(at, n) => {
                let expected = &model[at as usize..(at + n) as usize];
                assert!(read(&disk, at, n) == expected, "read {at}+{n}");
            }
            Op::Write(at, n, byte) => {
                let data: Vec<u8> = (0..n).map(|i| byte.wrapping_add(i as u8)).collect();
                disk.write_at(&data, at).unwrap();
                model[at as usize..(at + n) as usize].copy_from_slice(&data);
            }
            Op::Zero(at, n) => {
                disk.zero(at, n).unwrap();
                model[at as usize..(at + n) as usize].fill(0);
            }
            Op::Flush => disk.flush().unwrap(),
            Op::Reopen => {
                let fresh = table(dir.path()).0;
                disk = open(Some(disk), fresh);
            }
        }
    }
    assert!(read(&disk, 0, LEN) == model);
    check_extents(&disk, &model);
}

fn disk(table: RegionTable, overlay: impl Overlay + 'static) -> Disk {
    Disk::new(table, Some(Box::new(overlay)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn scratch_is_a_disk(ops in prop::collection::vec(op(), 1..60)) {
        run(ops, |old, table| {
            // It does not outlive the process; opening it anew is not one of its operations.
            old.unwrap_or_else(|| disk(table, Scratch::new(Path::new("/var/tmp"), LEN).unwrap()))
        });
    }

    #[test]
    fn qcow2_is_a_disk(ops in prop::collection::vec(op(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("overlay.qcow2");
        run(ops, |old, table| {
            let overlay = match old {
                None => Qcow2Overlay::create(&path, LEN, b"meta").unwrap(),
                Some(old) => {
                    drop(old);
                    let (overlay, metadata) = unlocked(|| Qcow2Overlay::open(&path)).unwrap();
                    assert_eq!(metadata, b"meta");
                    overlay
                }
            };
            disk(table, overlay)
        });
        // A child that another test is starting has our lock until it runs its program.
        let end = Instant::now() + Duration::from_secs(20);
        let out = loop {
            let mut check = std::process::Command::new("qemu-img");
            let out = check.args(["check", "-U"]).arg(&path).output().unwrap();
            let is_locked = String::from_utf8_lossy(&out.stderr).contains("lock\n");
            if !is_locked || Instant::now() > end {
                break out;
            }
        };
        assert!(out.status.success(), "{out:?}");
    }
}

/// Writers that share blocks and clusters but no sector must not lose each other's sectors.
fn neighbours(overlay: impl Overlay + 'static) {
    let dir = tempfile::tempdir().unwrap();
    let (table, mut model) = table(dir.path());
    let disk = disk(table, overlay);
    std::thread::scope(|scope| {
        for lane in 0..4u64 {
            let disk = &disk;
            scope.spawn(move || {
                for sector in (lane..LEN / 512).step_by(4) {
                    if sector % 3 == 0 {
                        disk.zero(sector * 512, 512).unwrap();
                    } else {
                        disk.write_at(&[lane as u8 + 1; 512], sector * 512).unwrap();
                    }
                }
            });
        }
    });
    for sector in 0..LEN / 512 {
        let value = if sector % 3 == 0 { 0 } else { (sector % 4) as u8 + 1 };
        model[(sector * 512) as usize..][..512].fill(value);
    }
    assert!(read(&disk, 0, LEN) == model);
}

#[test]
fn scratch_keeps_neighbours_apart() {
    neighbours(Scratch::new(Path::new("/var/tmp"), LEN).unwrap());
}

#[test]
fn qcow2_keeps_neighbours_apart() {
    let dir = tempfile::tempdir().unwrap();
    neighbours(Qcow2Overlay::create(&dir.path().join("o"), LEN, b"").unwrap());
}

/// Discarding what was written gives the space back.
fn gives_back(overlay: impl Overlay + 'static) {
    let dir = tempfile::tempdir().unwrap();
    let (table, _) = table(dir.path());
    let disk = disk(table, overlay);
    disk.write_at(&vec![1; LEN as usize], 0).unwrap();
    disk.flush().unwrap();
    assert!(disk.overlay_allocated() >= LEN);
    disk.zero(0, LEN).unwrap();
    disk.flush().unwrap();
    assert!(disk.overlay_allocated() < 1 << 20, "{} bytes left", disk.overlay_allocated());
    assert!(read(&disk, 0, LEN).iter().all(|b| *b == 0));
}

#[test]
fn scratch_gives_space_back() {
    gives_back(Scratch::new(Path::new("/var/tmp"), LEN).unwrap());
}

#[test]
fn qcow2_gives_space_back() {
    let dir = tempfile::tempdir().unwrap();
    gives_back(Qcow2Overlay::create(&dir.path().join("o"), LEN, b"").unwrap());
}

#[test]
fn overlays_are_locked_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o");
    let held = Qcow2Overlay::create(&path, LEN, b"m").unwrap();
    let kind = |r: synthdisk::Result<(Qcow2Overlay, Vec<u8>)>| r.unwrap_err().kind();
    assert_eq!(kind(Qcow2Overlay::open(&path)), synthdisk::ErrorKind::Busy);
    let image = dir.path().join("image");
    let (table, _) = table(dir.path());
    let d = disk(table, held);
    d.write_at(&[1; 512], 0).unwrap();
    d.flush().unwrap();
    drop(d);
    unlocked(|| Qcow2Overlay::open(&path)).unwrap();
    assert_eq!(kind(Qcow2Overlay::open(&image)), synthdisk::ErrorKind::Unsupported);
    // Every table pointer replaced by nonsense, one after the other.
    let good = std::fs::read(&path).unwrap();
    for at in [40usize, 48, 24] {
        let mut bad = good.clone();
        bad[at..at + 8].copy_from_slice(&0x7fff_ffff_ffff_fe00u64.to_be_bytes());
        std::fs::write(&path, &bad).unwrap();
        assert_eq!(
            kind(unlocked(|| Qcow2Overlay::open(&path))),
            synthdisk::ErrorKind::Corrupt,
            "at {at}"
        );
    }
    std::fs::write(&path, &good[..(good.len() / 2) & !511]).unwrap();
    assert!(unlocked(|| Qcow2Overlay::open(&path)).is_err());
}

/// The disk's last cluster is partial. Stored where another cluster was freed, with data after
/// it in the file, it must not truncate that data.
#[test]
fn a_partial_last_cluster_leaves_the_file_its_length() {
    const CLUSTER: u64 = 64 << 10;
    const { assert!(LEN % CLUSTER != 0) };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("overlay.qcow2");
    let overlay = Qcow2Overlay::create(&path, LEN, b"meta").unwrap();
    let disk = disk(table(dir.path()).0, overlay);
    let bytes = vec![7; CLUSTER as usize];
    disk.write_at(&bytes, 0).unwrap();
    disk.write_at(&bytes, CLUSTER).unwrap();
    disk.zero(0, CLUSTER).unwrap();
    disk.write_at(&[8], LEN - 1).unwrap();
    assert!(read(&disk, CLUSTER, CLUSTER) == bytes);
    assert_eq!(read(&disk, LEN - 1, 1), [8]);
}
