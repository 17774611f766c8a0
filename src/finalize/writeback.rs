//! Starting writeback while copying continues.
//!
//! A result is complete once it is on storage. By default, the kernel starts writing at the final
//! `fsync` (or when a tenth of the memory is dirty), and the storage is idle until then.

#![expect(unsafe_code, reason = "nix lacks sync_file_range(2)")]

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// Writeback is started for this many bytes at a time.
pub(super) const STEP: u64 = 8 << 20;

/// Start writing the dirty pages in `range` of `file` to storage, without waiting for completion.
/// This is only a hint: the final `fsync` guarantees completion and reports errors. See
/// sync_file_range(2).
pub(super) fn begin(file: &File, range: Range<u64>) {
    let (Ok(from), Ok(len)) =
        (i64::try_from(range.start), i64::try_from(range.end.saturating_sub(range.start)))
    else {
        return;
    };
    // A length of 0 would mean everything up to the end of the file.
    if len > 0 {
        // SAFETY: the call takes only numbers and accesses none of our memory; the descriptor
        // belongs to a `File` that is borrowed until the call returns.
        unsafe { libc::sync_file_range(file.as_raw_fd(), from, len, libc::SYNC_FILE_RANGE_WRITE) };
    }
}

/// The same for all of `file`, with its current length.
pub(super) fn begin_all(file: &File) {
    begin(file, 0..file.metadata().map_or(0, |meta| meta.len()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn any_range_will_do() {
        let file = tempfile::tempfile().unwrap();
        begin_all(&file);
        file.write_all_at(&[7; 10000], 0).unwrap();
        for range in [0..0, 0..10, 5000..5000, 4096..1 << 40, 0..u64::MAX] {
            begin(&file, range);
        }
        begin_all(&file);
        let mut back = [0; 10000];
        file.read_exact_at(&mut back, 0).unwrap();
        assert!(back == [7; 10000]);
    }
}
