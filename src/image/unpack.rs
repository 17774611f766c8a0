//! Decompressing one unit of an image.

use super::layer::damaged;
use crate::guard::quietly;
use flate2::{Decompress, FlushDecompress};
use std::io::{self, Read};

/// Largest zstd window that is accepted, in bytes: more than any unit is long, and as much as the
/// format asks decoders to support.
const ZSTD_WINDOW: u64 = 8 << 20;

/// How a unit is compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Compression {
    /// A deflate stream without a header (RFC 1951).
    Deflate,
    /// A deflate stream in a zlib envelope (RFC 1950).
    Zlib,
    /// A zstd frame (RFC 8878).
    Zstd,
}

/// The `len` bytes that `packed` contains; what follows its end is ignored.
///
/// # Errors
/// `InvalidData` if it contains fewer, or is damaged.
pub(super) fn unpack(how: Compression, packed: &[u8], len: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; len];
    let full = quietly(|| fill(how, packed, &mut out));
    if full == Ok(true) { Ok(out) } else { Err(damaged("a compressed cluster is damaged")) }
}

/// Whether `packed` contains enough to fill `out`.
fn fill(how: Compression, packed: &[u8], out: &mut [u8]) -> bool {
    match how {
        Compression::Deflate | Compression::Zlib => {
            let mut stream = Decompress::new(how == Compression::Zlib);
            let done = stream.decompress(packed, out, FlushDecompress::Finish);
            done.is_ok() && stream.total_out() == out.len() as u64
        }
        Compression::Zstd => {
            use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
            let mut decoder = FrameDecoder::new();
            decoder.set_max_window_size(ZSTD_WINDOW);
            StreamingDecoder::new_with_decoder(packed, decoder)
                .is_ok_and(|mut stream| stream.read_exact(out).is_ok())
        }
    }
}
