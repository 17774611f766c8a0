//! The hot paths of a disk: finding a region, and reading and writing through an overlay.

use criterion::{BenchmarkId, Criterion, Throughput};
use std::hint::black_box;
use std::time::{Duration, Instant};
use synthdisk::bytes::ReadAt;
use synthdisk::disk::{
    Disk, Overlay, Qcow2Overlay, Region, RegionKind, RegionTable, Scratch, Source,
};
use tempfile::TempDir;

const BLOCK: usize = 4096;
/// Length of the disks in bytes, and what one round writes.
const LEN: u64 = 64 << 20;
const BLOCKS: u64 = LEN / BLOCK as u64;

/// A table of `count` regions of the same length, zeros all.
fn table(count: u64, len: u64) -> RegionTable {
    let region = |i: u64| Region {
        start: i * (len / count),
        len: len / count,
        kind: RegionKind::Partition(i as u32 + 1),
        origin: String::new(),
        source: Source::Zeros,
    };
    RegionTable::new((0..count).map(region).collect()).expect("regions without gaps")
}

/// The next of a sequence of pseudo-random numbers (xorshift).
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn region_lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("region lookup");
    for count in [4, 64] {
        let table = table(count, 1 << 40);
        let mut state = 1;
        group.bench_function(BenchmarkId::from_parameter(format!("{count} regions")), |b| {
            b.iter(|| black_box(table.region_at(black_box(random(&mut state) % (1 << 40)))));
        });
    }
    group.finish();
}

/// The kinds of overlays.
#[derive(Clone, Copy)]
enum Kind {
    Temporary,
    Persistent,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Temporary, Self::Persistent];

    fn name(self) -> &'static str {
        match self {
            Self::Temporary => "temporary overlay",
            Self::Persistent => "qcow2 overlay",
        }
    }

    /// A disk with a new overlay.
    fn disk(self, dir: &TempDir) -> Disk {
        let overlay: Box<dyn Overlay> = match self {
            Self::Temporary => Box::new(Scratch::new(dir.path(), LEN).expect("a temporary file")),
            Self::Persistent => {
                let path = dir.path().join("overlay.qcow2");
                let _ = std::fs::remove_file(&path); // that of the round before
                Box::new(Qcow2Overlay::create(&path, LEN, b"bench").expect("a new overlay"))
            }
        };
        Disk::new(table(4, LEN), Some(overlay))
    }

    /// A disk on which every block was written.
    fn written(self, dir: &TempDir) -> Disk {
        let disk = self.disk(dir);
        let data = vec![1; 1 << 20];
        for at in (0..LEN).step_by(data.len()) {
            disk.write_at(&data, at).expect("a write within the disk");
        }
        disk
    }
}

fn overlay(c: &mut Criterion) {
    let dir = TempDir::new().expect("a temporary directory");
    for kind in Kind::ALL {
        let mut group = c.benchmark_group(kind.name());
        group.throughput(Throughput::Bytes(BLOCK as u64));
        let disk = kind.written(&dir);
        let mut state = 1;
        let mut buf = vec![0; BLOCK];
        group.bench_function("read 4 KiB", |b| {
            b.iter(|| {
                let at = random(&mut state) % BLOCKS * BLOCK as u64;
                disk.read_at(&mut buf, at).expect("a read within the disk");
                black_box(&buf);
            });
        });
        let data = vec![2; BLOCK];
        group.bench_function("rewrite 4 KiB", |b| {
            b.iter(|| {
                let at = random(&mut state) % BLOCKS * BLOCK as u64;
                disk.write_at(&data, at).expect("a write within the disk");
            });
        });
        group.bench_function("first write 4 KiB", |b| {
            b.iter_custom(|count| {
                rounds(count, || kind.disk(&dir), |disk, at| disk.write_at(&data, at))
            });
        });
        group.bench_function("zero 4 KiB", |b| {
            b.iter_custom(|count| {
                rounds(count, || kind.written(&dir), |disk, at| disk.zero(at, BLOCK as u64))
            });
        });
        group.finish();
    }
}

/// The time of `count` calls of `once`, each on another block; making a disk, when all its blocks are
/// used up, does not count.
fn rounds(
    count: u64,
    make: impl Fn() -> Disk,
    once: impl Fn(&Disk, u64) -> std::io::Result<()>,
) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let disk = make();
        let now = left.min(BLOCKS);
        let start = Instant::now();
        for i in 0..now {
            // An odd number of blocks apart, so that every block is used once.
            let block = i.wrapping_mul(7919) % BLOCKS;
            once(&disk, block * BLOCK as u64).expect("within the disk");
        }
        spent += start.elapsed();
        left -= now;
    }
    spent
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    region_lookup(&mut criterion);
    overlay(&mut criterion);
    criterion.final_summary();
}
