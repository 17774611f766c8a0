//! Comparing an image with the bytes that it should have.

use super::{Image, OpenOptions};
use crate::Result;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

const SECTOR: u64 = 512;

/// Open the image at `path` in the format of its name.
pub(super) fn open(path: &Path) -> Result<Arc<dyn Image>> {
    super::open(path, &OpenOptions::default())
}

/// Reads at odd offsets and lengths, extents and mapped slices all show `expected`.
pub(super) fn check(image: &dyn Image, expected: &[u8]) {
    assert_eq!(image.len(), expected.len() as u64);
    let (mut at, mut step) = (0, 1);
    while at < expected.len() {
        let end = (at + step).min(expected.len());
        let mut buf = vec![1; end - at];
        image.read_at(&mut buf, at as u64).unwrap();
        assert!(buf == expected[at..end], "{at}..{end}");
        if let Some(slice) = image.map(at as u64, end - at) {
            let mut through = tempfile::tempfile().unwrap();
            io::Write::write_all(&mut through, slice.for_syscall()).unwrap();
            through.read_exact_at(&mut buf, 0).unwrap();
            assert!(buf == expected[at..end], "mapped {at}..{end}");
        }
        at = end;
        step = step * 3 % 77_777 + 1;
    }
    let mut at = 0;
    while at < image.len() {
        let extent = image.extent_at(at).unwrap();
        assert!(extent.end > at && extent.end <= image.len());
        let range = &expected[at as usize..extent.end as usize];
        assert!(extent.data || range.iter().all(|b| *b == 0), "hole at {at}");
        at = extent.end;
    }
    assert!(image.read_at(&mut [0; 2], image.len() - 1).is_err());
    assert!(image.read_at(&mut [0], u64::MAX).is_err());
    assert!(image.map(image.len() - 1, 2).is_none());
}

/// Random sectors at positions that depend on `seed`, on top of `base`, and the resulting disk.
pub(super) fn changes(len: u64, seed: u64, base: &[u8]) -> (Vec<(u64, Vec<u8>)>, Vec<u8>) {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        state >> 33
    };
    let mut disk = base.to_vec();
    disk.resize(len as usize, 0);
    let mut sectors = Vec::new();
    for _ in 0..40 {
        let first = next() % (len / SECTOR);
        for sector in first..(first + next() % 30).min(len / SECTOR) {
            let byte = (next() % 255) as u8;
            let data = vec![byte; SECTOR as usize];
            disk[(sector * SECTOR) as usize..][..SECTOR as usize].copy_from_slice(&data);
            sectors.push((sector, data));
        }
    }
    (sectors, disk)
}
