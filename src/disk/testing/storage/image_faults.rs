//! Images that cannot be read, for a moment or from some moment on (they shrink, or their device
//! vanishes): only what needs them fails, and nothing wrong is stored.

use super::crash::disk;
use super::model::{Model, Op, regions};
use super::recorder::{Recorder, SECTOR};
use super::{Rng, for_each_seed};
use crate::bytes::ReadAt;
use crate::disk::qcow2::Geometry;
use crate::disk::{Disk, Qcow2Overlay, Region, Scratch, Source};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SECTORS: u64 = 700;
const LEN: u64 = SECTORS * SECTOR as u64;
/// Operations of a workload.
const OPS: usize = 40;

/// Counts the reads of all images, and decides which of them fail.
#[derive(Debug, Default)]
struct Reads {
    done: AtomicU64,
    failed: AtomicU64,
    /// The numbers of the first read that fails, and of the first one after it that does not.
    fails: [AtomicU64; 2],
}

impl Reads {
    fn fail(&self, from: u64, to: u64) {
        self.fails[0].store(from, Ordering::Relaxed);
        self.fails[1].store(to, Ordering::Relaxed);
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

struct Image {
    bytes: Vec<u8>,
    reads: Arc<Reads>,
}

impl ReadAt for Image {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let n = self.reads.done.fetch_add(1, Ordering::Relaxed);
        let [from, to] = [0, 1].map(|i| self.reads.fails[i].load(Ordering::Relaxed));
        if (from..to).contains(&n) {
            self.reads.failed.fetch_add(1, Ordering::Relaxed);
            // What was read before the error is in the buffer.
            buf.iter_mut().take(SECTOR).for_each(|byte| *byte = 0xee);
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes.read_at(buf, offset)
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// The regions of the model, with content that comes from images.
fn from_images(reads: &Arc<Reads>) -> Vec<Region> {
    let mut regions = regions(SECTORS);
    for region in &mut regions {
        if let Source::Bytes(bytes) = &region.source {
            let image = Image { bytes: bytes.to_vec(), reads: Arc::clone(reads) };
            region.source = Source::File(Arc::new(image));
        }
    }
    regions
}

/// Carry out the workload of `seed` while the reads `from..to` of the images fail; the number of
/// reads.
fn run(persistent: bool, seed: u64, from: u64, to: u64) -> u64 {
    let reads = Arc::new(Reads::default());
    let regions = from_images(&reads);
    let geometry = Geometry { cluster: 4096, refcount_bits: 16 };
    let disk: Disk = if persistent {
        let storage = Recorder::default();
        disk(&regions, Qcow2Overlay::create_in(storage, LEN, geometry, b"x").unwrap())
    } else {
        disk(&regions, Scratch::new_in(Recorder::default(), LEN).unwrap())
    };
    let rng = &mut Rng(seed);
    let mut model = Model::new(SECTORS);
    reads.fail(from, to);
    for _ in 0..OPS {
        let op = Op::random(rng, SECTORS);
        let before = reads.failed();
        if let Err(e) = model.run(&disk, op) {
            assert!(reads.failed() > before, "{op:?}: {e}");
        }
    }
    let done = reads.done.load(Ordering::Relaxed);
    reads.fail(0, 0);
    model.check(&disk);
    // Sectors of failed writes take new content like all others.
    for at in (0..SECTORS).step_by(7) {
        model.run(&disk, Op::Write { at, len: 3.min(SECTORS - at) }).unwrap();
    }
    model.run(&disk, Op::Flush).unwrap();
    model.check(&disk);
    done
}

#[test]
fn an_image_that_cannot_be_read_harms_nothing_else() {
    for_each_seed(4, "workloads with images that fail", |seed| {
        let mut tried = 0;
        for persistent in [true, false] {
            let reads = run(persistent, seed, 0, 0);
            for at in 0..reads {
                run(persistent, seed, at, at + 1);
                run(persistent, seed, at, u64::MAX);
                tried += 2;
            }
        }
        tried
    });
}
