//! An image: what it starts with, and whatever can be read in it. Start from real ones:
//! `mkfs.xfs -m crc=0 -p PROTO`, `mkfs.btrfs --rootdir DIR`, `mke2fs -d DIR`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use synthdisk::fs::{Budget, GuestFs};
use synthdisk::fs::open::open_fs;
use synthdisk::guest::select::choose;

/// Looks at what is in a directory, and below it.
fn walk(fs: &dyn GuestFs, dir: &str, depth: usize) {
    let Ok(names) = fs.read_dir(dir) else { return };
    for name in names.iter().take(20) {
        let path = format!("{}/{name}", dir.trim_end_matches('/'));
        let _ = fs.lstat(&path);
        if let Ok(bytes) = fs.read(&path, 1 << 20) {
            assert!(bytes.len() <= 1 << 20);
        }
        if depth > 0 {
            walk(fs, &path, depth - 1);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(fs) = open_fs(data.to_vec(), &Budget::new()) else { return };
    let _ = choose(&*fs, None);
    walk(&*fs, "/", 3);
});
