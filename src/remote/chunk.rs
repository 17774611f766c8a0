//! The unit in which remote images are fetched, checked and cached.

use sha2::{Digest, Sha256};

/// Length of a chunk in bytes. The last one of an image may be shorter.
pub(super) const CHUNK: u64 = 512 << 10;

/// Most chunks that are fetched by one request.
pub(super) const MOST_AT_ONCE: u32 = 4;

/// SHA-256 of a chunk.
pub(super) type Sum = [u8; 32];

/// The checksum of `bytes`.
pub(super) fn sum_of(bytes: &[u8]) -> Sum {
    Sha256::digest(bytes).into()
}

/// The number of chunks of an image of `len` bytes.
pub(super) fn count(len: u64) -> u64 {
    len.div_ceil(CHUNK)
}

/// Offset and length in bytes of the chunks from `first` on, `n` of them, in an image of `len` bytes.
/// Both are 0 for chunks that it does not have.
pub(super) fn range(first: u64, n: u64, len: u64) -> (u64, u64) {
    let start = first.saturating_mul(CHUNK).min(len);
    let end = first.saturating_add(n).saturating_mul(CHUNK).min(len);
    (start, end - start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_chunk_is_shorter() {
        let len = 2 * CHUNK + 5;
        assert_eq!(count(len), 3);
        assert_eq!(range(0, 1, len), (0, CHUNK));
        assert_eq!(range(1, 4, len), (CHUNK, CHUNK + 5));
        assert_eq!(range(2, 1, len), (2 * CHUNK, 5));
        assert_eq!(range(3, 1, len).1, 0);
        assert_eq!(range(u64::MAX, 9, len).1, 0);
    }
}
