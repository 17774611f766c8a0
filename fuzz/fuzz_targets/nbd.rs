//! What a client of the NBD server sends: a byte that says which kind of headers it has negotiated,
//! if any, then its messages.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, OnceLock};
use synthdisk::disk::{Disk, Region, RegionKind, RegionTable, Scratch, Source, temporary_dir};
use synthdisk::export::{ExportSet, ExportedFile};
use synthdisk::nbd::converse;

const LEN: u64 = 1 << 20;

/// A disk of zeros with a temporary overlay.
fn set() -> &'static ExportSet {
    static SET: OnceLock<ExportSet> = OnceLock::new();
    SET.get_or_init(|| {
        let table = RegionTable::new(vec![Region {
            start: 0,
            len: LEN,
            kind: RegionKind::Gap,
            origin: String::new(),
            source: Source::Zeros,
        }]);
        let overlay = Scratch::new(&temporary_dir(), LEN).expect("an overlay");
        let disk = Disk::new(table.expect("one region"), Some(Box::new(overlay)));
        let file = ExportedFile::of_disk("disk.raw".into(), Arc::new(disk), 0, LEN);
        ExportSet::private(vec![file])
    })
}

fn option(number: u32, content: &[u8]) -> Vec<u8> {
    let len = (content.len() as u32).to_be_bytes();
    [&b"IHAVEOPT"[..], &number.to_be_bytes(), &len, content].concat()
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let mut said = Vec::new();
    if kind % 4 > 0 {
        said.extend(3u32.to_be_bytes());
    }
    if kind % 4 > 1 {
        said.extend(option(if kind % 4 == 2 { 8 } else { 11 }, b""));
        said.extend(option(10, b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation"));
        said.extend(option(7, &[0; 6]));
    }
    said.extend(rest);
    converse(set(), &said).expect("threads and sockets");
});
