//! A small disk with every kind of source, and what it must show.

use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use synthdisk::disk::{Region, RegionKind, RegionTable, Source};
use synthdisk::image::RawImage;

/// Neither a multiple of the scratch block (4 KiB) nor of the cluster (16 KiB), and past one of
/// scratch's write stripes.
pub const LEN: u64 = (3 << 20) + 63 * 512;
/// Where the image starts; within a block.
pub const IMAGE_START: u64 = 100 * 512;
/// Length of the image.
pub const IMAGE_LEN: u64 = (2 << 20) + 512;

fn pattern(i: u64) -> u8 {
    (i * 7 + i / 251) as u8 | 1
}

/// A table with every kind of source, its image file, and the bytes that it must show.
pub fn table(dir: &Path) -> (RegionTable, Vec<u8>) {
    let path = dir.join("image");
    let content: Vec<u8> = (0..IMAGE_LEN)
        .map(|i| if (1 << 20..1 << 20 | 1 << 18).contains(&i) { 0 } else { pattern(i) })
        .collect();
    let file = File::create(&path).unwrap();
    file.set_len(IMAGE_LEN).unwrap();
    // The zeros in the middle stay a hole.
    file.write_all_at(&content[..1 << 20], 0).unwrap();
    file.write_all_at(&content[(1 << 20) + (1 << 18)..], (1 << 20) + (1 << 18)).unwrap();
    let image = Arc::new(RawImage::open(&path).unwrap());
    let head: Vec<u8> = (0..512).map(|i| i as u8).collect();
    let end = IMAGE_START + IMAGE_LEN;
    let table = RegionTable::new(vec![
        region(0, 512, Source::Bytes(head.clone().into())),
        region(512, IMAGE_START - 512, Source::Zeros),
        region(IMAGE_START, IMAGE_LEN, Source::Image { image, offset: 0 }),
        region(end, LEN - end, Source::Zeros),
    ])
    .unwrap();
    let mut bytes = head;
    bytes.resize(IMAGE_START as usize, 0);
    bytes.extend(content);
    bytes.resize(LEN as usize, 0);
    (table, bytes)
}

/// A region of a table.
pub fn region(start: u64, len: u64, source: Source) -> Region {
    Region { start, len, kind: RegionKind::Gap, origin: String::new(), source }
}

/// Ranges of the disk, most of them of sectors or pages: offset and length, never empty.
pub fn range() -> impl Strategy<Value = (u64, u64)> {
    let sectors = LEN / 512;
    let aligned = (0..sectors, 1..300u64).prop_map(move |(at, n)| {
        let at = at * 512;
        (at, (n * 512).min(LEN - at))
    });
    let pages =
        (0..LEN / 4096, 1..20u64).prop_map(|(at, n)| (at * 4096, (n * 4096).min(LEN - at * 4096)));
    let odd = (0..LEN, 1..9000u64).prop_map(|(at, n)| (at, n.min(LEN - at)));
    let wide = (0..LEN).prop_map(|at| (at, LEN - at));
    prop_oneof![4 => aligned, 4 => pages, 2 => odd, 1 => wide]
}
