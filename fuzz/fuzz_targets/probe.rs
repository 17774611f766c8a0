//! The first bytes of an image: filesystems, partition tables, boot code, and formats of other
//! programs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use synthdisk::fs::boot_code::boot_code;
use synthdisk::fs::probe::{HEAD_LEN, probe};
use synthdisk::fs::table::DiskTable;

fuzz_target!(|data: &[u8]| {
    let head = &data[..data.len().min(HEAD_LEN)];
    for size in [head.len() as u64, 1 << 30, 4 << 40] {
        let content = probe(head, size);
        let _ = (content.describe(), content.label(), content.uuid());
    }
    let disk = data.to_vec();
    if let Ok(table) = DiskTable::read(&disk) {
        let _ = boot_code(&disk, &table);
    }
});
