//! The first bytes of an image: filesystems, partition tables, and formats of other programs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use synthdisk::fs::probe::{HEAD_LEN, probe};

fuzz_target!(|data: &[u8]| {
    let head = &data[..data.len().min(HEAD_LEN)];
    for size in [head.len() as u64, 1 << 30, 4 << 40] {
        let content = probe(head, size);
        let _ = (content.describe(), content.label(), content.uuid());
    }
});
