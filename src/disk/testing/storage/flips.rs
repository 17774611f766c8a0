//! Flipped bits in the tables of an overlay: refused, or nothing is shown wrong.

use super::crash::disk;
use super::model::{Model, Op, regions};
use super::recorder::{Loss, Recorder, Replay, SECTOR};
use super::{Rng, for_each_seed};
use crate::disk::qcow2::Geometry;
use crate::disk::{Qcow2Overlay, Region};
use crate::image::Qcow2Header;
use std::collections::BTreeMap;

const SECTORS: u64 = 700;
const GEOMETRY: Geometry = Geometry { cluster: 1024, refcount_bits: 16 };

/// The kinds of fields that are flipped.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Field {
    L1,
    /// Bit 0 of an L2 entry: the cluster reads as zeros.
    ZeroFlag,
    /// The other bits of an L2 entry.
    L2,
    RefcountTable,
    RefcountBlock,
}

/// The overlay after a workload, as a crash and as a proper end leave it, and what both must show.
fn used(seed: u64, regions: &[Region]) -> (Vec<u8>, Vec<u8>, Model) {
    let recorder = Recorder::default();
    let len = SECTORS * SECTOR as u64;
    let overlay = Qcow2Overlay::create_in(recorder.clone(), len, GEOMETRY, b"x").unwrap();
    let disk = disk(regions, overlay);
    let rng = &mut Rng(seed);
    let mut model = Model::new(SECTORS);
    for _ in 0..20 {
        model.run(&disk, Op::random(rng, SECTORS)).unwrap();
    }
    model.run(&disk, Op::Flush).unwrap();
    let at = recorder.events();
    let crashed = Replay::new(Vec::new(), recorder.history()).crash(at, Loss::Nothing, rng);
    drop(disk);
    (crashed, recorder.bytes(), model)
}

fn entries(bytes: &[u8], start: u64, count: u64) -> Vec<(u64, u64)> {
    let start = start as usize;
    let table = bytes[start..start + count as usize * 8].chunks_exact(8);
    let entry = |b: &[u8]| b.iter().fold(0, |n, byte| (n << 8) | u64::from(*byte));
    (0..).step_by(8).map(|n: usize| (start + n) as u64).zip(table.map(entry)).collect()
}

/// All bits of all tables: the offset of the byte, the mask, the field.
fn bits(bytes: &[u8]) -> Vec<(usize, u8, Field)> {
    let header = Qcow2Header::parse(bytes).unwrap();
    let offset = |entry: u64| entry & 0x00ff_ffff_ffff_fe00;
    let mut found = Vec::new();
    let mut add = |start: u64, len: u64, field: &dyn Fn(u64, u8) -> Field| {
        for at in start..start + len {
            found.extend((0..8).map(|bit| (at as usize, 1 << bit, field(at, 1 << bit))));
        }
    };
    let l1 = entries(bytes, header.l1_offset, u64::from(header.l1_entries));
    for (at, entry) in l1 {
        add(at, 8, &|_, _| Field::L1);
        if offset(entry) != 0 {
            let flag =
                |at: u64, mask| if at % 8 == 7 && mask == 1 { Field::ZeroFlag } else { Field::L2 };
            add(offset(entry), GEOMETRY.cluster, &flag);
        }
    }
    let table = header.refcount_table_len();
    add(header.refcount_offset, table, &|_, _| Field::RefcountTable);
    for (_, entry) in entries(bytes, header.refcount_offset, table / 8) {
        if offset(entry) != 0 {
            add(offset(entry), GEOMETRY.cluster, &|_, _| Field::RefcountBlock);
        }
    }
    found
}

/// What came of a flip.
#[derive(Debug, Default)]
struct Outcome {
    refused: u64,
    harmless: u64,
    wrong: u64,
}

fn flip_each(bytes: &[u8], regions: &[Region], model: &Model) -> BTreeMap<Field, Outcome> {
    let mut outcomes: BTreeMap<Field, Outcome> = BTreeMap::new();
    let mut flipped = bytes.to_vec();
    for (n, (at, mask, field)) in bits(bytes).into_iter().enumerate() {
        // Most entries are empty; one in 16 of those is enough.
        let entry = &bytes[at / 8 * 8..at / 8 * 8 + 8];
        if entry == [0; 8] && n / 64 % 16 != 0 {
            continue;
        }
        flipped[at] ^= mask;
        let outcome = outcomes.entry(field).or_default();
        match Qcow2Overlay::open_in(Recorder::holding(flipped.clone()), false) {
            Err(_) => outcome.refused += 1,
            Ok((overlay, _)) => match model.fits(&disk(regions, overlay)) {
                true => outcome.harmless += 1,
                false => outcome.wrong += 1,
            },
        }
        flipped[at] ^= mask;
    }
    outcomes
}

/// Every bit of the tables of an overlay that was closed properly.
#[test]
fn a_damaged_table_of_a_sealed_overlay_is_refused() {
    for_each_seed(1, "flipped bits of a sealed overlay", |seed| {
        let regions = regions(SECTORS);
        let (_, sealed, model) = used(seed, &regions);
        let mut tried = 0;
        for (field, outcome) in flip_each(&sealed, &regions, &model) {
            assert!(outcome.harmless == 0 && outcome.wrong == 0, "{field:?}: {outcome:?}");
            tried += outcome.refused;
        }
        tried
    });
}

/// After a crash there is no seal, only the structure. It does not show a wrong flag "reads as
/// zeros", nor an L1 entry that points to a data cluster of the table that it pointed to before, if
/// the data there looks like a table (zeros do).
#[test]
fn a_damaged_table_after_a_crash_is_refused_unless_it_is_a_valid_one() {
    for_each_seed(1, "flipped bits after a crash", |seed| {
        let regions = regions(SECTORS);
        let (crashed, _, model) = used(seed, &regions);
        let mut tried = 0;
        for (field, outcome) in flip_each(&crashed, &regions, &model) {
            let may_be_wrong = match field {
                Field::ZeroFlag => u64::MAX,
                Field::L1 => outcome.refused / 20,
                Field::L2 | Field::RefcountTable | Field::RefcountBlock => 0,
            };
            assert!(outcome.wrong <= may_be_wrong, "{field:?}: {outcome:?}");
            assert!(outcome.refused > 0 || field == Field::ZeroFlag, "{field:?}: {outcome:?}");
            tried += outcome.refused + outcome.harmless + outcome.wrong;
            println!("tested: {field:?} after a crash: {outcome:?}");
        }
        tried
    });
}
