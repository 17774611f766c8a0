//! Opening an image: read-only, claimed, and in the format that its name or the user says.

use super::driver::Opening;
use super::formats::Format;
use super::{Claim, Image, check_unused, claim, foreign};
use crate::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// What happens to an image that others write to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum InUse {
    /// It is refused.
    #[default]
    Refuse,
    /// It is opened all the same.
    Open,
}

/// What happens to a raw image whose first bytes are those of another format.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Foreign {
    /// It is refused: either it is not raw, or a guest wants it to be taken for something else.
    #[default]
    Refuse,
    /// Its bytes are the disk all the same.
    Serve,
}

/// How an image is to be opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// Its format; what its name stands for, if `None`. Its bytes are never asked.
    pub format: Option<Format>,
    /// What to do if others write to it.
    pub in_use: InUse,
    /// What to do if it is raw and looks like something else.
    pub foreign: Foreign,
}

/// Open the image at `path` read-only, and claim it: from then on a QEMU that wants to write to it
/// is told that it is in use.
///
/// # Errors
/// [`ErrorKind::NotFound`] for a missing file, [`ErrorKind::Io`] for one that cannot be read,
/// [`ErrorKind::Invalid`] for an empty one and for what is neither file nor block device,
/// [`ErrorKind::Busy`] when it is in use, [`ErrorKind::Unsupported`] for a format, or a feature of
/// one, that is not read, [`ErrorKind::Corrupt`] when it breaks its format.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Arc<dyn Image>> {
    let opening = Opening::new(path)?;
    if options.in_use == InUse::Refuse {
        check_unused(&opening.file, &opening.path)?;
    }
    let claimed = claim(&opening.file, Claim::StableRead);
    if options.in_use == InUse::Refuse {
        claimed.map_err(|e| {
            let what = format!("{} is open for writing elsewhere", path.display());
            Error::with_source(e.kind(), what, e)
        })?;
    }
    let format = options.format.unwrap_or_else(|| Format::of_path(path));
    if format.0.plain && options.foreign == Foreign::Refuse {
        refuse_foreign(&opening)?;
    }
    (format.0.open)(opening)
}

/// The error for the image at `path`, whose format `name` (as xl or QEMU calls it) is not read; if it
/// cannot be opened at all, the error that says so.
pub fn unread(path: &Path, name: &str) -> Error {
    let shown = path.display();
    match Opening::new(path) {
        Err(e) => e,
        Ok(_) => Error::new(
            ErrorKind::Unsupported,
            format!(
                "{shown} should be {name}: {name} is a format that is not read yet; convert it \
                 (qemu-img convert -O raw) and name the result"
            ),
        ),
    }
}

/// Refuse a raw image that begins like one of another format.
fn refuse_foreign(opening: &Opening) -> Result<()> {
    let shown = opening.path.display();
    let mut head = vec![0; opening.len.min(foreign::HEAD_LEN as u64) as usize];
    let failed = |e| Error::io(format!("cannot read {shown}"), e);
    opening.file.read_exact_at(&mut head, 0).map_err(failed)?;
    let Some(found) = foreign::look(&head) else { return Ok(()) };
    let advice = match Format::by_name(found.qemu_name) {
        Some(format) => format!(
            "if that is its format, say so (--image-format {0}; format={0} in a domU config) or \
             have its name end in .{0}",
            format.name()
        ),
        None => format!(
            "{} is a format that is not read yet; convert it (qemu-img convert -f {} -O raw {shown} \
             root.img)",
            found.shown, found.qemu_name
        ),
    };
    Err(Error::new(
        ErrorKind::Unsupported,
        format!(
            "{shown} would be read as raw, but begins like a {} image: {advice}; --image-format raw \
             shows its bytes as they are",
            found.shown
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::ReadAt;
    use std::fs;

    fn file(name: &str, head: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        let mut bytes = head.to_vec();
        bytes.resize(1 << 16, 0);
        fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn a_raw_image_is_never_followed() {
        for (head, word) in [
            (&b"QFI\xfb\0\0\0\x03"[..], "--image-format qcow2"),
            (b"KDMV", "qemu-img convert -f vmdk"),
            (b"conectix", "--image-format vhd"),
        ] {
            let (_dir, path) = file("root.img", head);
            let e = open(&path, &OpenOptions::default()).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Unsupported);
            assert!(e.to_string().contains(word), "{e}");
            // Saying that it is raw is not saying that it is meant to look like that.
            let raw = OpenOptions { format: Format::by_name("raw"), ..Default::default() };
            assert!(open(&path, &raw).is_err());
            let forced = OpenOptions { foreign: Foreign::Serve, ..raw };
            let image = open(&path, &forced).unwrap();
            let mut bytes = vec![0; head.len()];
            image.read_at(&mut bytes, 0).unwrap();
            assert_eq!((&bytes[..], image.format(), image.len()), (head, "raw", 1 << 16));
        }
    }

    #[test]
    fn a_name_is_a_promise() {
        // Zeros are no qcow2 file, whatever they are called.
        let (_dir, path) = file("root.qcow2", b"");
        let e = open(&path, &OpenOptions::default()).unwrap_err();
        assert!(e.to_string().contains("not a qcow2 file"), "{e}");
        let raw = OpenOptions { format: Format::by_name("raw"), ..Default::default() };
        assert_eq!(open(&path, &raw).unwrap().format(), "raw");
    }
}
