//! Recordings: which chunks of remote images a boot used, in the order of their first use.
//!
//! A text file, for people too: a first line, a line `image ID LENGTH NAME` for each image, and a line
//! `ID CHUNK` for each chunk. The ID is made from the URL, so one file may be for several images.

use super::chunk::count;
use super::url::RemoteUrl;
use crate::private_file::{self, Existing};
use crate::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

const FIRST_LINE: &str = "synthdisk-recording 1";
/// Longest recording in bytes, and the most chunks of one image: 32 GiB.
const MOST: u64 = 16 << 20;
const MOST_CHUNKS: usize = 64 << 10;

/// Begin a new recording at `path`.
///
/// # Errors
/// Errors of the file.
pub fn begin_recording(path: &Path) -> Result<()> {
    let mut file = private_file::open(path, "the recording", Existing::Truncate)?;
    let failed = |e| Error::io(format!("cannot write the recording to {}", path.display()), e);
    writeln!(file, "{FIRST_LINE}").map_err(failed)
}

/// Open the recording at `path` for the image at `url`, which is `len` bytes long.
///
/// # Errors
/// Errors of the file.
pub(super) fn open(path: &Path, url: &RemoteUrl, len: u64) -> Result<File> {
    let mut file = private_file::open(path, "the recording", Existing::Append)?;
    let line = format!("image {} {len} {}\n", id_of(url), url.name());
    let failed = |e| Error::io(format!("cannot write the recording to {}", path.display()), e);
    file.write_all(line.as_bytes()).map_err(failed)?;
    Ok(file)
}

/// The chunks of the image at `url`, which is `len` bytes long, that the recording at `path` has.
///
/// # Errors
/// Errors of the file; [`ErrorKind::Corrupt`] for what is no recording.
pub(super) fn read(path: &Path, url: &RemoteUrl, len: u64) -> Result<Vec<u64>> {
    let mut text = String::new();
    let failed = |e| Error::io(format!("cannot read the recording {}", path.display()), e);
    let file = File::open(path).map_err(failed)?;
    file.take(MOST).read_to_string(&mut text).map_err(failed)?;
    let mut lines = text.lines();
    if lines.next() != Some(FIRST_LINE) {
        let what = format!("{} is no recording of --record", path.display());
        return Err(Error::new(ErrorKind::Corrupt, what));
    }
    let id = id_of(url);
    let chunk = |line: &str| line.strip_prefix(&id)?.strip_prefix(' ')?.parse().ok();
    // The image may have become shorter.
    Ok(lines.filter_map(chunk).filter(|n| *n < count(len)).take(MOST_CHUNKS).collect())
}

/// What stands for the image at `url`.
pub(super) fn id_of(url: &RemoteUrl) -> String {
    let digest = Sha256::digest(url.target().as_bytes());
    digest.iter().take(6).map(|b| format!("{b:02x}")).collect()
}

/// Writes a recording.
pub(super) struct Recorder {
    id: String,
    to: Mutex<(File, HashSet<u64>)>,
}

impl Recorder {
    /// Write to `file`, for the image `id`.
    pub(super) fn new(id: String, file: File) -> Self {
        Self { id, to: Mutex::new((file, HashSet::new())) }
    }

    /// The chunks from `first` on, `n` of them, are used.
    pub(super) fn note(&self, first: u64, n: u32) {
        let (file, known) = &mut *self.to.lock();
        let new = (first..first.saturating_add(n.into())).filter(|n| known.insert(*n));
        let lines: String = new.map(|n| format!("{} {n}\n", self.id)).collect();
        if !lines.is_empty() {
            // A recording that is incomplete does no harm.
            let _ = file.write_all(lines.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunk::CHUNK;
    use super::*;

    #[test]
    fn what_was_noted_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let url =
            |name| RemoteUrl::parse(&format!("https://me:pw@host/{name}?sig=secret")).unwrap();
        begin_recording(&path).unwrap();
        let (a, b) = (url("a"), url("b"));
        let recorder = |url| Recorder::new(id_of(url), open(&path, url, 10 * CHUNK).unwrap());
        let (of_a, of_b) = (recorder(&a), recorder(&b));
        of_a.note(3, 2);
        of_b.note(1, 1);
        of_a.note(0, 1);
        of_a.note(4, 3);
        assert_eq!(read(&path, &a, 10 * CHUNK).unwrap(), [3, 4, 0, 5, 6]);
        assert_eq!(read(&path, &b, 10 * CHUNK).unwrap(), [1]);
        assert_eq!(read(&path, &a, 5 * CHUNK).unwrap(), [3, 4, 0]);
        assert!(read(&path, &url("c"), CHUNK).unwrap().is_empty());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("secret") && !text.contains("pw"), "{text}");
        std::fs::write(&path, "something else").unwrap();
        assert_eq!(read(&path, &a, CHUNK).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
