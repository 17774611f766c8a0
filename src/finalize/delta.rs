//! A delta: a qcow2 file over a golden image, which QEMU boots without synthdisk.
//!
//! An overlay holds what differs from the *images*. A golden image is not the images: it has the
//! edits that adapt the guest, whatever its own guest has done, and a boot gap with its own guest's
//! kernel, while an overlay's boot gap is made up anew and stored nowhere. So renaming an overlay's
//! base (`qemu-img rebase -u`) is sound only by luck. A delta is written by comparing: the disk as
//! images and overlay show it, gap included, with the golden image, byte by byte, and what differs
//! is stored. Where both have holes nothing is read.

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

/// Bytes that are compared at a time.
const WINDOW: u64 = 1 << 20;

/// Write what `contents` has other than `backing` to `destination`, which becomes a qcow2 file over it.
///
/// # Errors
/// [`ErrorKind::Invalid`] when the two disks are not of one length, [`ErrorKind::Unsupported`] for a
/// block device as target; those of reading and writing; that of the request's `stop`.
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
    /// The next bytes from `at` on that are to be looked at; empty at the end. What lies between is
    /// a hole of both disks, whose runs are `ours` and `theirs`. Its end is that of a window, or of
    /// the disk.
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
                // Whole windows, so that clusters stay whole.
                let start = (from - from % WINDOW).max(at);
                return Ok(start..(from - from % WINDOW + WINDOW).min(len));
            }
            from = ours.end.min(theirs.end).max(from + 1);
        }
        Ok(len..len)
    }

    /// Store in `delta` what differs.
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

    /// Read `delta` over its golden image and compare.
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

/// Runs of clusters that differ; those of nothing but zeros are apart from others.
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
        // The last cluster may be cut short.
        assert_eq!(different(&ours[..9], &theirs[..9], 4), vec![0..8]);
    }
}
