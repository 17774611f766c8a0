//! Detects zeros, which need not be written to a new file.

use std::ops::Range;

/// Zeros are detected in blocks of this many bytes.
pub(super) const BLOCK: usize = 4096;

/// The runs of blocks in `bytes`, which are at `offset` of a file, that are not all zeros.
pub(super) fn data_runs(bytes: &[u8], offset: u64) -> impl Iterator<Item = Range<usize>> + '_ {
    // Blocks are aligned in the file, not in `bytes`.
    let first = BLOCK - (offset % BLOCK as u64) as usize;
    let block_end = move |at: usize| if at < first { first } else { at + BLOCK };
    let mut at = 0;
    std::iter::from_fn(move || {
        let mut start = None;
        while at < bytes.len() {
            let end = block_end(at).min(bytes.len());
            let zeros = is_zero(&bytes[at..end]);
            match start {
                Some(start) if zeros => return Some(start..std::mem::replace(&mut at, end)),
                None if !zeros => start = Some(at),
                _ => {}
            }
            at = end;
        }
        start.map(|start| start..bytes.len())
    })
}

/// Whether all bytes are zero. Compilers vectorise this code.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Most data has a non-zero byte early on.
    let (head, rest) = bytes.split_at(bytes.len().min(64));
    head.iter().all(|b| *b == 0)
        && rest.chunks(512).all(|chunk| chunk.iter().fold(0, |all, b| all | b) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_found_in_blocks_of_the_file() {
        let mut bytes = vec![0; 5 * BLOCK];
        let runs = |bytes: &[u8], at| data_runs(bytes, at).collect::<Vec<_>>();
        assert!(runs(&bytes, 0).is_empty());
        assert!(runs(&[], 0).is_empty());
        bytes[BLOCK] = 1;
        bytes[2 * BLOCK + 5] = 1;
        bytes[5 * BLOCK - 1] = 1;
        assert_eq!(runs(&bytes, 0), [BLOCK..3 * BLOCK, 4 * BLOCK..5 * BLOCK]);
        // Shifted by a sector, the same bytes are in different blocks.
        let first = BLOCK - 512;
        assert_eq!(runs(&bytes, 512), [first..first + 2 * BLOCK, first + 4 * BLOCK..5 * BLOCK]);
        assert_eq!(runs(&[1, 0], 4095).first(), Some(&(0..1)));
        assert!(runs(&[0; 100], 4095).is_empty());
    }

    #[test]
    fn zero_or_not() {
        for len in [0, 1, 63, 64, 65, 4096, 5000] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes), "{len}");
            for at in [0, len / 2, len.saturating_sub(1)] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = 1;
                    assert!(!is_zero(&bytes), "{at} of {len}");
                    bytes[at] = 0;
                }
            }
        }
    }
}
