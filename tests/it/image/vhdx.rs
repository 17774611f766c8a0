//! VHDX: logs that must be replayed, and differencing disks, made by the specification.

use std::fs;
use std::path::{Path, PathBuf};

use super::oracle::{arg, by_qemu, compare, opened};
use crate::common::process::run;

const BAT: [u8; 16] =
    [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0, 0x42, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08];
const METADATA: [u8; 16] = [
    0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e,
];
const LOCATOR: [u8; 16] = [
    0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c,
];
const LOCATOR_TYPE: [u8; 16] = [
    0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a, 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13,
];
const SECTOR: usize = 4096;
const MIB: usize = 1 << 20;

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn get64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Stores the checksum of `bytes`, CRC-32C, at offset 4.
fn sign(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let mut sum = !0u32;
    for byte in bytes.iter() {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ if sum & 1 != 0 { 0x82f6_3b78 } else { 0 };
        }
    }
    put(bytes, 4, &(!sum).to_le_bytes());
}

/// Offset of the region `kind`.
fn region(bytes: &[u8], kind: &[u8; 16]) -> usize {
    let table = &bytes[192 << 10..256 << 10];
    let entry = table[16..].chunks_exact(32).find(|e| e.starts_with(kind)).unwrap();
    get64(entry, 16) as usize
}

/// Offset of the current header.
fn header(bytes: &[u8]) -> usize {
    [64 << 10, 128 << 10].into_iter().max_by_key(|at| get64(bytes, at + 8)).unwrap()
}

fn made(path: &Path, writes: &[&str]) {
    // Blocks that were not written are not present, so that a parent would show.
    let options = ["-o", "block_size=1M,block_state_zero=off"];
    run("qemu-img", &[&["create", "-q", "-f", "vhdx"], &options[..], &[arg(path), "7M"]].concat());
    let commands = writes.iter().flat_map(|write| ["-c", write]);
    let args: Vec<_> = ["-f", "vhdx"].into_iter().chain(commands).chain([arg(path)]).collect();
    run("qemu-io", &args);
}

/// What QEMU makes of the file at `path` when it repairs a copy.
fn repaired(path: &Path) -> Vec<u8> {
    let copy = path.with_extension("copy.vhdx");
    fs::copy(path, &copy).unwrap();
    run("qemu-img", &["check", "-q", "-r", "all", "-f", "vhdx", arg(&copy)]);
    let bytes = by_qemu(&copy, "vhdx");
    fs::remove_file(copy).unwrap();
    bytes
}

/// An entry of the log: descriptors of changes to pages at these offsets, or of zeros.
fn entry(
    id: &[u8],
    sequence: u64,
    tail: u32,
    file_len: u64,
    changes: &[(u64, Option<&[u8]>)],
) -> Vec<u8> {
    let mut out = vec![0; SECTOR];
    put(&mut out, 0, b"loge");
    put(&mut out, 12, &tail.to_le_bytes());
    put(&mut out, 16, &sequence.to_le_bytes());
    put(&mut out, 24, &(changes.len() as u32).to_le_bytes());
    put(&mut out, 32, id);
    put(&mut out, 48, &file_len.to_le_bytes());
    put(&mut out, 56, &file_len.to_le_bytes());
    for (number, (at, page)) in changes.iter().enumerate() {
        let to = 64 + number * 32;
        put(&mut out, to + 16, &at.to_le_bytes());
        put(&mut out, to + 24, &sequence.to_le_bytes());
        let Some(page) = page else {
            put(&mut out, to, b"zero");
            put(&mut out, to + 8, &(SECTOR as u64).to_le_bytes());
            continue;
        };
        put(&mut out, to, b"desc");
        put(&mut out, to + 4, &page[SECTOR - 4..]);
        put(&mut out, to + 8, &page[..8]);
        let mut data = page.to_vec();
        put(&mut data, 0, b"data");
        put(&mut data, 4, &((sequence >> 32) as u32).to_le_bytes());
        put(&mut data, SECTOR - 4, &(sequence as u32).to_le_bytes());
        out.extend(data);
    }
    let len = out.len() as u32;
    put(&mut out, 8, &len.to_le_bytes());
    sign(&mut out);
    out
}

/// A file with the log `entries`, each at its offset in the log, which wraps around.
fn with_log(path: &Path, entries: impl Fn(&[u8; 16], u64, usize, &[u8]) -> Vec<(usize, Vec<u8>)>) {
    made(path, &["write -P 1 0 1M", "write -P 2 1M 1M", "write -P 3 2M 1M"]);
    let mut bytes = fs::read(path).unwrap();
    let (at, bat) = (header(&bytes), region(&bytes, &BAT));
    let id = [0x5a; 16];
    put(&mut bytes, at + 48, &id);
    let (log_len, log) = (get32(&bytes, at + 68) as usize, get64(&bytes, at + 72) as usize);
    sign(&mut bytes[at..at + SECTOR]);
    let page = bytes[bat..bat + SECTOR].to_vec();
    let (start, file_len) = (log, bytes.len() as u64);
    for (place, entry) in entries(&id, file_len, bat, &page) {
        for (i, b) in entry.iter().enumerate() {
            bytes[start + (place % log_len + i) % log_len] = *b;
        }
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_log_made_by_hand_is_replayed_as_qemu_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.vhdx");
    // The first entry clears the table, the second, which wraps around, exchanges two blocks of it.
    let last = MIB - SECTOR;
    with_log(&path, |id, len, bat, page| {
        let mut swapped = page.to_vec();
        swapped[..8].copy_from_slice(&page[8..16]);
        swapped[8..16].copy_from_slice(&page[..8]);
        vec![
            (last - SECTOR, entry(id, 7, (last - SECTOR) as u32, len, &[(bat as u64, None)])),
            (last, entry(id, 8, (last - SECTOR) as u32, len, &[(bat as u64, Some(&swapped))])),
            // An older sequence, which does not count.
            (64 << 10, entry(id, 3, 64 << 10, len, &[(bat as u64, None)])),
        ]
    });
    let expected = repaired(&path);
    assert_eq!([expected[0], expected[MIB], expected[2 * MIB]], [2, 1, 3]);
    compare(&path, None, &expected, std::slice::from_ref(&path));
    // Only the entry that clears the table.
    with_log(&path, |id, len, bat, _| vec![(0, entry(id, 1, 0, len, &[(bat as u64, None)]))]);
    let expected = repaired(&path);
    assert!(expected.iter().all(|b| *b == 0));
    compare(&path, None, &expected, std::slice::from_ref(&path));
    // A log without an intact entry, and one that was written for a longer file.
    with_log(&path, |_, _, _, _| Vec::new());
    let e = opened(&path, None).unwrap_err().to_string();
    assert!(e.contains("contains no intact sequence"), "{e}");
    with_log(&path, |id, len, bat, _| {
        vec![(0, entry(id, 1, 0, len + MIB as u64, &[(bat as u64, None)]))]
    });
    let e = opened(&path, None).unwrap_err().to_string();
    assert!(e.contains("it was cut short"), "{e}");
}

#[test]
fn damaged_headers_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.vhdx");
    made(&path, &["write -P 1 0 1M"]);
    let good = fs::read(&path).unwrap();
    let expected = by_qemu(&path, "vhdx");
    // One of two headers and of two region tables may be damaged.
    let other = if header(&good) == 64 << 10 { 128 << 10 } else { 64 << 10 };
    for at in [other + 100, (192 << 10) + 20, (256 << 10) + 20] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        compare(&path, None, &expected, std::slice::from_ref(&path));
    }
    for (places, word) in [
        ([(64 << 10) + 100, (128 << 10) + 100], "both of its headers"),
        ([(192 << 10) + 20, (256 << 10) + 20], "both of its region tables"),
        ([0, 1], "not a VHDX file"),
    ] {
        let mut bytes = good.clone();
        places.iter().for_each(|at| bytes[*at] ^= 1);
        fs::write(&path, bytes).unwrap();
        let e = opened(&path, None).unwrap_err().to_string();
        assert!(e.contains(word), "{e}");
    }
}

/// A differencing child of `parent` in which sectors `sectors` of block 1 are stored.
fn child(parent: &Path, path: &Path, sectors: &[usize]) {
    made(path, &["write -P 9 1M 1M"]);
    let above = fs::read(parent).unwrap();
    let id = &above[header(&above) + 32..][..16];
    let id = uuid::Uuid::from_bytes_le(id.try_into().unwrap());
    let mut bytes = fs::read(path).unwrap();
    let (bat, metadata) = (region(&bytes, &BAT), region(&bytes, &METADATA));
    // The flag "has a parent", in the item that the first entry of QEMU's table describes.
    let table = metadata..metadata + (64 << 10);
    let count = get32(&bytes[table.clone()], 8) >> 16;
    let parameters = metadata + get32(&bytes[table.clone()], 32 + 16) as usize;
    bytes[parameters + 4] |= 2;
    let name = parent.file_name().unwrap().to_str().unwrap();
    let values = [("parent_linkage", format!("{{{id}}}")), ("relative_path", format!(".\\{name}"))];
    let mut locator = [&LOCATOR_TYPE[..], &[0, 0, values.len() as u8, 0]].concat();
    let mut text: Vec<u8> = Vec::new();
    let first = 20 + 12 * values.len();
    for (key, value) in &values {
        let mut add = |word: &str| {
            let at = (first + text.len()) as u32;
            let units: Vec<u8> = word.encode_utf16().flat_map(u16::to_le_bytes).collect();
            text.extend(&units);
            (at, units.len() as u16)
        };
        let (key, value) = (add(key), add(value));
        locator.extend([key.0.to_le_bytes(), value.0.to_le_bytes()].concat());
        locator.extend([key.1.to_le_bytes(), value.1.to_le_bytes()].concat());
    }
    locator.extend(text);
    let place = 512 << 10;
    put(&mut bytes, metadata + place, &locator);
    let entry = metadata + 32 + count as usize * 32;
    put(&mut bytes, entry, &LOCATOR);
    put(&mut bytes, entry + 16, &(place as u32).to_le_bytes());
    put(&mut bytes, entry + 20, &(locator.len() as u32).to_le_bytes());
    put(&mut bytes, entry + 24, &4u32.to_le_bytes());
    put(&mut bytes, metadata + 10, &(count as u16 + 1).to_le_bytes());
    // Block 1 is stored in part; its bitmap is a new block. A chunk is 4096 blocks of 1 MiB.
    bytes[bat + 8] = bytes[bat + 8] & !7 | 7;
    bytes.resize(bytes.len().next_multiple_of(MIB), 0);
    let bitmap = bytes.len();
    bytes.resize(bitmap + MIB, 0);
    for sector in sectors {
        let bit = MIB / 512 + sector;
        bytes[bitmap + bit / 8] |= 1 << (bit % 8);
    }
    put(&mut bytes, bat + 4096 * 8, &(bitmap as u64 | 6).to_le_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn differencing_disks_show_their_parents_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let base = path("base.vhdx");
    made(&base, &["write -P 1 0 1M", "write -P 2 1M 1M", "write -P 3 2M 512"]);
    let mut expected = by_qemu(&base, "vhdx");
    let top = path("top.vhdx");
    let sectors = [0, 1, 5, 8, 100, 2047];
    child(&base, &top, &sectors);
    for sector in sectors {
        expected[MIB + sector * 512..][..512].fill(9);
    }
    compare(&top, None, &expected, &[base.clone(), top.clone()]);
    let files: Vec<PathBuf> =
        opened(&top, None).unwrap().files().into_iter().map(|file| file.path).collect();
    assert_eq!(files, [top.clone(), base.clone()]);
    // A parent that has been written to is another disk.
    run("qemu-io", &["-f", "vhdx", "-c", "write -P 7 0 512", arg(&base)]);
    let e = opened(&top, None).unwrap_err().to_string();
    assert!(e.contains("it is another disk"), "{e}");
    fs::remove_file(&base).unwrap();
    let e = opened(&top, None).unwrap_err().to_string();
    assert!(e.contains("its backing image is missing; put base.vhdx"), "{e}");
}
