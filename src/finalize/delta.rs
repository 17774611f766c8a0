//! A delta: a qcow2 file based on a golden image, which QEMU boots without synthdisk.
//!
//! An overlay stores the differences from the *images*. A golden image is different from the
//! images: it contains the edits that adapt the guest, everything that its own guest has written,
//! and a boot gap with its own guest's kernel. An overlay's boot gap, in contrast, is generated and
//! stored nowhere. So changing the backing file of an overlay (`qemu-img rebase -u`) would work
//! only by chance. A delta is written by comparing the disk that images and overlay show, including
//! the gap, with the golden image, byte by byte, and storing the differences. Ranges that are holes
//! in both are not read.

use super::backing::Backing;
use super::contents::{Contents, Runs};
use super::destination::{Destination, allocated};
use super::errors::{cannot_read, cannot_write, check_stop};
use super::formats::OutputFormat;
use super::new_file::NewFile;
use super::progress::Progress;
use super::write::{Pending, Request, Unnamed, Written};
use super::zeros::is_zero;
use crate::bytes::{Extent, Extents, ReadAt};
use crate::disk::{Overlay, Qcow2Overlay};
use crate::{Error, ErrorKind, Result};
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Bytes compared at a time.
const WINDOW: u64 = 1 << 20;

/// Write the differences of `contents` from `backing` to `destination`, which becomes a qcow2 file
/// with `backing` as its backing file.
///
/// # Errors
/// [`ErrorKind::Invalid`] when the two disks have different lengths, [`ErrorKind::Unsupported`] for
/// a block device as target; read and write errors; the error of the request's `stop`.
pub fn write_delta(
    contents: &dyn Contents,
    backing: &Backing,
    destination: Destination,
    request: &Request<'_>,
) -> Result<Pending> {
    let started = Instant::now();
    let path = destination.path();
    let Destination::File(output) = destination else {
        let what = format!("{} is a block device; a delta is a file", path.display());
        return Err(Error::new(ErrorKind::Unsupported, what));
    };
    let disk_len = contents.len();
    if disk_len != backing.len() {
        let what = "a delta and its golden image are disks of the same length";
        return Err(Error::new(ErrorKind::Invalid, what));
    }
    let name = path.display().to_string();
    let dir = path.parent().map(std::path::Path::to_path_buf).unwrap_or_default();
    let backing_name = backing.name_from(&dir)?;
    let new = NewFile::create(output)?;
    let delta = Qcow2Overlay::create_over(new.file(), disk_len, backing_name, backing.format())?;
    let compared = Compared { contents, backing, request };
    compared.store(&delta, &name)?;
    let failed = |e| cannot_write(&name, e);
    delta.sync().map_err(failed)?;
    if request.verify {
        super::verify::forget(new.file());
        compared.verify(&delta, &name)?;
    }
    drop(delta);
    new.file().sync_all().map_err(failed)?;
    let len = new.file().metadata().map_err(failed)?.len();
    let sum = request
        .checksum
        .then(|| super::verify::sha256(new.file(), len, &name, request.quiet, request.stop));
    let written = Written {
        path,
        format: OutputFormat::Qcow2,
        disk_len,
        len,
        allocated: allocated(new.file()),
        copied: None,
        sha256: sum.transpose()?,
        verified: request.verify,
        took: Duration::ZERO,
    };
    Ok(Pending { result: Unnamed::File(new), written, started })
}

/// The two disks.
struct Compared<'a> {
    contents: &'a dyn Contents,
    backing: &'a Backing,
    request: &'a Request<'a>,
}

impl Compared<'_> {
    /// The next range, starting at or after `at`, that must be compared; empty at the end of the
    /// disk. Everything skipped is a hole in both disks, whose extents are `ours` and `theirs`. The
    /// range ends at the end of a window or of the disk.
    fn next_window(
        &self,
        at: u64,
        ours: &mut Runs<impl Fn(u64) -> Result<Extent>>,
        theirs: &mut Runs<impl Fn(u64) -> Result<Extent>>,
    ) -> Result<Range<u64>> {
        let len = self.contents.len();
        let mut from = at;
        while from < len {
            let (ours, theirs) = (ours.at(from)?, theirs.at(from)?);
            if ours.data || theirs.data {
                // Start at the window boundary, so that clusters stay whole.
                let start = (from - from % WINDOW).max(at);
                return Ok(start..(from - from % WINDOW + WINDOW).min(len));
            }
            from = ours.end.min(theirs.end).max(from + 1);
        }
        Ok(len..len)
    }

    /// Store the differences in `delta`.
    fn store(&self, delta: &Qcow2Overlay, name: &str) -> Result<()> {
        let len = self.contents.len();
        let progress = Progress::new(format!("comparing for {name}"), len, self.request.quiet);
        let mut our_runs = Runs::new(|at| self.contents.extent_at(at).map_err(cannot_read));
        let mut their_runs = Runs::new(|at| self.backing.extent_at(at).map_err(cannot_read_golden));
        let cluster = delta.cow_granularity();
        let mut ours = vec![0; WINDOW as usize];
        let mut theirs = vec![0; WINDOW as usize];
        let mut at = 0;
        while at < len {
            check_stop(self.request.stop)?;
            let window = self.next_window(at, &mut our_runs, &mut their_runs)?;
            progress.add(window.end - at);
            at = window.end;
            if window.is_empty() {
                break;
            }
            let n = (window.end - window.start) as usize;
            let (ours, theirs) = (&mut ours[..n], &mut theirs[..n]);
            self.contents.read_at(ours, window.start).map_err(cannot_read)?;
            self.backing.read_at(theirs, window.start).map_err(cannot_read_golden)?;
            if ours == theirs {
                continue;
            }
            for run in different(ours, theirs, cluster as usize) {
                let bytes = &ours[run.clone()];
                let offset = window.start + run.start as u64;
                let stored = if is_zero(bytes) {
                    delta.zero(self.backing, offset, bytes.len() as u64)
                } else {
                    delta.write_at(self.backing, bytes, offset)
                };
                stored.map_err(|e| cannot_write(name, e))?;
            }
        }
        Ok(())
    }

    /// Read `delta` with its golden image below, and compare.
    fn verify(&self, delta: &Qcow2Overlay, name: &str) -> Result<()> {
        let len = self.contents.len();
        let progress = Progress::new(format!("verifying {name}"), len, self.request.quiet);
        let mut ours = vec![0; WINDOW as usize];
        let mut theirs = vec![0; WINDOW as usize];
        let mut at = 0;
        while at < len {
            check_stop(self.request.stop)?;
            let n = WINDOW.min(len - at) as usize;
            let (ours, theirs) = (&mut ours[..n], &mut theirs[..n]);
            self.contents.read_at(ours, at).map_err(cannot_read)?;
            delta
                .read_at(self.backing, theirs, at)
                .map_err(|e| Error::io(format!("cannot read {name} back"), e))?;
            if let Some(i) = ours.iter().zip(theirs.iter()).position(|(a, b)| a != b) {
                let byte = at + i as u64;
                let what =
                    format!("{name} differs from the disk at byte {byte}; the storage has a fault");
                return Err(Error::new(ErrorKind::Corrupt, what));
            }
            at += n as u64;
            progress.add(n as u64);
        }
        Ok(())
    }
}

fn cannot_read_golden(e: io::Error) -> Error {
    Error::io("cannot read the golden image", e)
}

/// Runs of clusters that differ; runs of all-zero clusters are kept separate from other runs.
fn different(ours: &[u8], theirs: &[u8], cluster: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    let mut start = 0;
    for (a, b) in ours.chunks(cluster).zip(theirs.chunks(cluster)) {
        let end = start + a.len();
        if a != b {
            let zero = is_zero(a);
            match runs.last_mut() {
                Some((run, kind)) if run.end == start && *kind == zero => run.end = end,
                _ => runs.push((start..end, zero)),
            }
        }
        start = end;
    }
    runs.into_iter().map(|(run, _)| run).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_of_one_kind() {
        let mut ours = vec![0; 10];
        let mut theirs = vec![0; 10];
        ours[..2].fill(1);
        theirs[4..8].fill(2);
        ours[6] = 3;
        theirs[9] = 4;
        assert_eq!(different(&ours, &theirs, 2), [0..2, 4..6, 6..8, 8..10]);
        assert!(different(&ours, &ours, 2).is_empty());
        // The last cluster may be shorter than the others.
        assert_eq!(different(&ours[..9], &theirs[..9], 4), vec![0..8]);
    }
}
