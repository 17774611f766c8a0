//! Reading back a result: comparing it with the disk, and computing its SHA-256.

use super::contents::{Contents, Runs};
use super::errors::{cannot_read, check_stop};
use super::progress::Progress;
use super::zeros::is_zero;
use crate::image::extent_of;
use crate::process::Stop;
use crate::{Error, ErrorKind, Result};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::{Whence, lseek64};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes read at a time.
const PIECE: u64 = 1 << 20;

/// Compare `written`, whose bytes are on storage and which may be longer, with `contents`. Its
/// pages are first dropped from the page cache, if possible, so that it is read from storage.
/// # Errors
/// [`ErrorKind::Corrupt`], naming the first byte that differs; read errors; the error of `stop`.
pub fn verify(
    contents: &dyn Contents,
    written: &File,
    name: &str,
    quiet: bool,
    stop: &Stop,
) -> Result<()> {
    let len = contents.len();
    forget(written);
    let progress = Progress::new(format!("verifying {name}"), len, quiet);
    let failed = |e| Error::io(format!("cannot read {name} back"), e);
    let end = lseek64(written, 0, Whence::SeekEnd).map_err(|e| failed(e.into()))?;
    if u64::try_from(end).unwrap_or(0) < len {
        let what = format!("{name} has only {end} bytes, fewer than the disk ({len})");
        return Err(Error::new(ErrorKind::Corrupt, what));
    }
    let mut our_runs = Runs::new(|at| contents.extent_at(at).map_err(cannot_read));
    let mut their_runs = Runs::new(|at| extent_of(written, len, at).map_err(failed));
    let mut ours = vec![0; PIECE as usize];
    let mut theirs = vec![0; PIECE as usize];
    let mut at = 0;
    while at < len {
        check_stop(stop)?;
        let (one, other) = (our_runs.at(at)?, their_runs.at(at)?);
        let end = one.end.min(other.end).min(len);
        if !one.data && !other.data {
            progress.add(end - at);
            at = end;
            continue;
        }
        let end = end.min(at + PIECE);
        let (ours, theirs) = (&mut ours[..(end - at) as usize], &mut theirs[..(end - at) as usize]);
        contents.read_at(ours, at).map_err(cannot_read)?;
        written.read_exact_at(theirs, at).map_err(failed)?;
        if let Some(i) = ours.iter().zip(theirs.iter()).position(|(a, b)| a != b) {
            let byte = at + i as u64;
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{name} differs from the disk at byte {byte}; the storage has a fault"),
            ));
        }
        progress.add(end - at);
        at = end;
    }
    Ok(())
}

/// Drop the pages of `file`, whose bytes are on storage, from the page cache.
pub(super) fn forget(file: &File) {
    // tmpfs, which stores files only in the page cache, keeps them.
    let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

/// SHA-256 of the first `len` bytes of `file`, in hexadecimal. Holes are not read.
///
/// # Errors
/// Read errors; the error of `stop`.
pub fn sha256(file: &File, len: u64, name: &str, quiet: bool, stop: &Stop) -> Result<String> {
    let progress = Progress::new(format!("checksum of {name}"), len, quiet);
    let failed = |e: io::Error| Error::io(format!("cannot read {name} back"), e);
    let mut runs = Runs::new(|at| extent_of(file, len, at).map_err(failed));
    let mut hash = Sha256::new();
    let mut buffer = vec![0; PIECE as usize];
    let mut clean = true;
    let mut at = 0;
    while at < len {
        check_stop(stop)?;
        let extent = runs.at(at)?;
        let end = extent.end.min(at + PIECE);
        let bytes = &mut buffer[..(end - at) as usize];
        if extent.data {
            file.read_exact_at(bytes, at).map_err(failed)?;
            clean = false;
        } else if !clean {
            // For holes, the same buffer of zeros is hashed repeatedly.
            buffer.fill(0);
            clean = true;
            continue;
        }
        debug_assert!(extent.data || is_zero(bytes));
        hash.update(&*bytes);
        progress.add(end - at);
        at = end;
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{Extent, Extents, ReadAt};
    use crate::finalize::contents::OpenFile;

    /// A file of `len` bytes, all zeros except for `bytes`.
    fn file(len: u64, bytes: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        for (at, bytes) in bytes {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    #[test]
    fn differences_are_found() {
        let stop = Stop::never();
        let len = 5 << 20;
        let spots: [(u64, &[u8]); 2] = [(7, b"a"), ((3 << 20) + 5, b"b")];
        let ours = OpenFile::new(file(len, &spots)).unwrap();
        verify(&ours, &file(len, &spots), "x", true, &stop).unwrap();
        // It may be longer, as a device can be.
        verify(&ours, &file(len + 4096, &spots), "x", true, &stop).unwrap();
        for other in [file(len, &spots[..1]), file(len, &[spots[0], spots[1], (len - 1, b"c")])] {
            let e = verify(&ours, &other, "x", true, &stop).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
        }
        assert!(verify(&ours, &file(len - 1, &spots), "x", true, &stop).is_err());
    }

    /// One run of data that counts how often it is looked up.
    #[derive(Debug)]
    struct Counted(File, std::sync::atomic::AtomicU64);

    impl ReadAt for Counted {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            self.0.read_exact_at(buf, offset)
        }

        fn len(&self) -> u64 {
            5 << 20
        }
    }

    impl Extents for Counted {
        fn extent_at(&self, _offset: u64) -> io::Result<Extent> {
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(Extent { data: true, end: self.len() })
        }
    }

    impl Contents for Counted {
        fn reflink_source_at(
            &self,
            _: u64,
        ) -> io::Result<(crate::finalize::contents::ReflinkSource<'_>, u64)> {
            Ok((crate::finalize::contents::ReflinkSource::None, self.len()))
        }
    }

    #[test]
    fn a_long_run_is_looked_for_once() {
        let written = file(5 << 20, &[(0, &[1; 5 << 20])]);
        let contents = Counted(written.try_clone().unwrap(), 0.into());
        verify(&contents, &written, "x", true, &Stop::never()).unwrap();
        assert_eq!(contents.1.into_inner(), 1);
    }

    #[test]
    fn the_checksum_is_that_of_all_bytes() {
        let stop = Stop::never();
        let len = (4 << 20) + 123;
        let file = file(len, &[(0, b"a"), (2 << 20, b"b")]);
        let mut all = vec![0; len as usize];
        all[0] = b'a';
        all[2 << 20] = b'b';
        let expected: String = Sha256::digest(&all).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(sha256(&file, len, "x", true, &stop).unwrap(), expected);
    }
}
