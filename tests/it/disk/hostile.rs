//! Overlay files that are damaged, or made to harm the program that opens them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::common::overlay::unlocked;
use synthdisk::ErrorKind;
use synthdisk::bytes::ReadAt;
use synthdisk::disk::{Base, Overlay, Qcow2Overlay};

const LEN: u64 = 40 << 20;
const METADATA: &[u8] = br#"{"version":1,"layout":{"start":1048576,"len":4194304}}"#;

/// What lies under the overlay: no zeros, so that a lost cluster shows.
struct Sevens;

impl ReadAt for Sevens {
    fn read_at(&self, buf: &mut [u8], _offset: u64) -> io::Result<()> {
        buf.fill(7);
        Ok(())
    }

    fn len(&self) -> u64 {
        LEN
    }
}

impl Base for Sevens {
    fn is_zero(&self, _offset: u64, _len: u64) -> bool {
        false
    }
}

/// An overlay in which every kind of cluster is, under two entries of its L1 table.
fn used(path: &Path) {
    let overlay = Qcow2Overlay::create(path, LEN, METADATA).unwrap();
    overlay.write_at(&Sevens, &[1; 100_000], 300_000).unwrap();
    overlay.zero(&Sevens, 2 << 20, 1 << 20).unwrap();
    overlay.write_at(&Sevens, &[2; 5000], LEN - 70_000).unwrap();
    overlay.sync().unwrap();
}

/// What is shown around everything that was written, and where nothing was.
fn content(overlay: &Qcow2Overlay) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 240_000];
    for (piece, at) in bytes.chunks_mut(60_000).zip([0, 280_000, (2 << 20) - 30_000, LEN - 80_000])
    {
        overlay.read_at(&Sevens, piece, at)?;
    }
    Ok(bytes)
}

fn open(path: &Path) -> synthdisk::Result<(Qcow2Overlay, Vec<u8>)> {
    unlocked(|| Qcow2Overlay::open_frozen(path))
}

/// Every bit of the header and its extensions: the overlay is refused, or nothing has changed.
#[test]
#[ignore = "slow"]
fn a_damaged_header_shows_nothing_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("overlay");
    used(&path);
    let expected = content(&open(&path).unwrap().0).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut head = vec![0; 16 << 10];
    file.read_exact_at(&mut head, 0).unwrap();
    let at = head.windows(METADATA.len()).position(|w| w == METADATA).unwrap();
    let mut passed = Vec::new();
    for bit in 0..(at + METADATA.len() + 16) * 8 {
        let byte = bit / 8;
        file.write_all_at(&[head[byte] ^ (1 << (bit % 8))], byte as u64).unwrap();
        if let Ok((overlay, metadata)) = open(&path) {
            assert_eq!(metadata, METADATA, "bit {bit}");
            assert!(content(&overlay).is_ok_and(|now| now == expected), "bit {bit}");
            passed.push(byte);
        }
        file.write_all_at(&head[byte..=byte], byte as u64).unwrap();
    }
    assert_eq!(content(&open(&path).unwrap().0).unwrap(), expected);
    // What decides where a cluster is shown, and our extension, is never taken damaged.
    let guarded = |byte: &usize| {
        (0..8).contains(byte)
            || (20..48).contains(byte)
            || (at - 32..at + METADATA.len()).contains(byte)
    };
    let wrong: Vec<_> = passed.iter().filter(|byte| guarded(byte)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// A sparse file that claims tables of terabytes: refused, before memory is asked for.
#[test]
fn tables_that_fit_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("overlay");
    for fields in [
        // The refcount table: number of its clusters.
        &[(56, u32::MAX.to_be_bytes())][..],
        &[(56, 0x0800_0000_u32.to_be_bytes())],
        // The L1 table: number of its entries.
        &[(36, u32::MAX.to_be_bytes())],
    ] {
        used(&path);
        let file = File::options().write(true).open(&path).unwrap();
        for (at, bytes) in fields {
            file.write_all_at(bytes, *at).unwrap();
        }
        // As long as the filesystem takes.
        let longest = (30..63).rev().find(|bits| file.set_len(1 << bits).is_ok());
        assert!(longest.is_some_and(|bits| bits >= 40), "{longest:?}");
        let e = open(&path).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
        std::fs::remove_file(&path).unwrap();
    }
    // No table lies, but the file is longer than a set of its clusters could be.
    used(&path);
    let file = File::options().write(true).open(&path).unwrap();
    let expected = content(&open(&path).unwrap().0).unwrap();
    assert!((40..63).rev().any(|bits| file.set_len(1 << bits).is_ok()));
    assert!(content(&open(&path).unwrap().0).unwrap() == expected);
}
