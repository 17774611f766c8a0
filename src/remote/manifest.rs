//! Manifests: the checksum of each chunk of a file, to be compared with what a server sends.
//!
//! A text file: a first line with the file's length, and a line with the SHA-256 of each chunk. All
//! lines of a kind have the same length, so a checksum is found without reading those before it.

use super::chunk::{CHUNK, Sum, count, sum_of};
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

const WORDS: &str = "synthdisk-chunks 1 sha256";
/// Lengths of the first line and of the others, in bytes.
const FIRST: usize = WORDS.len() + 22;
const LINE: usize = 65;

/// Write the manifest of the file at `path` to a new file at `to`, which replaces an older one.
///
/// # Errors
/// Errors of the files.
pub fn write_manifest(path: &Path, to: &Path) -> Result<()> {
    let failed = |e| Error::io(format!("cannot write the manifest {}", to.display()), e);
    let mut file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut out = BufWriter::new(tempfile::NamedTempFile::new_in(dir).map_err(failed)?);
    writeln!(out, "{WORDS} {len:>20}").map_err(failed)?;
    let mut chunk = Vec::new();
    for _ in 0..count(len) {
        chunk.clear();
        (&mut file).take(CHUNK).read_to_end(&mut chunk).map_err(failed)?;
        let hex: String = sum_of(&chunk).iter().map(|b| format!("{b:02x}")).collect();
        writeln!(out, "{hex}").map_err(failed)?;
    }
    let out = out.into_inner().map_err(|e| failed(e.into_error()))?;
    out.persist(to).map_err(|e| failed(e.error))?;
    Ok(())
}

/// The checksums of a file's chunks.
#[derive(Debug)]
pub(super) struct Manifest(File);

impl Manifest {
    /// The manifest at `path`, and the length of the file that it is of.
    ///
    /// # Errors
    /// Errors of the file; [`ErrorKind::Corrupt`] for what is no manifest.
    pub(super) fn open(path: &Path) -> Result<(File, u64)> {
        let failed = |e| Error::io(format!("cannot read the manifest {}", path.display()), e);
        let file = File::open(path).map_err(failed)?;
        let mut first = [0; FIRST];
        let read = file.read_exact_at(&mut first, 0);
        let text = std::str::from_utf8(&first).ok().filter(|_| read.is_ok());
        let len = text.and_then(|text| text.strip_prefix(WORDS)?.trim().parse::<u64>().ok());
        let whole = |len: &u64| {
            let lines = count(*len).checked_mul(LINE as u64)?.checked_add(FIRST as u64)?;
            (file.metadata().ok()?.len() == lines).then_some(())
        };
        match len.filter(|len| whole(len).is_some()) {
            Some(len) => Ok((file, len)),
            None => {
                let what = format!("{} is no manifest, or was cut short", path.display());
                Err(Error::new(ErrorKind::Corrupt, what))
            }
        }
    }

    /// The manifest in `file`, which was checked.
    pub(super) fn new(file: File) -> Self {
        Self(file)
    }

    /// The checksum of chunk `number`.
    ///
    /// # Errors
    /// Errors of the file; `InvalidData` for what is no checksum.
    pub(super) fn sum(&self, number: u64) -> io::Result<Sum> {
        let mut line = [0; LINE];
        self.0.read_exact_at(&mut line, FIRST as u64 + number * LINE as u64)?;
        let mut sum = Sum::default();
        for (byte, digits) in sum.iter_mut().zip(line.chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| io::ErrorKind::InvalidData)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_found_by_number() {
        let dir = tempfile::tempdir().unwrap();
        let (path, to) = (dir.path().join("file"), dir.path().join("manifest"));
        let bytes: Vec<u8> = (0..2 * CHUNK + 7).map(|i| (i / 1000) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        write_manifest(&path, &to).unwrap();
        let (file, len) = Manifest::open(&to).unwrap();
        assert_eq!(len, bytes.len() as u64);
        let manifest = Manifest::new(file);
        for (n, chunk) in (0..).zip(bytes.chunks(CHUNK as usize)) {
            assert_eq!(manifest.sum(n).unwrap(), sum_of(chunk));
        }
        assert!(manifest.sum(3).is_err());
        let text = std::fs::read_to_string(&to).unwrap();
        for bad in [&text[..text.len() - 1], "synthdisk-chunks", ""] {
            std::fs::write(&to, bad).unwrap();
            assert_eq!(Manifest::open(&to).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        std::fs::write(&to, text.replace('b', "x")).unwrap();
        let manifest = Manifest::new(Manifest::open(&to).unwrap().0);
        assert!((0..3).any(|n| manifest.sum(n).is_err()));
    }
}
