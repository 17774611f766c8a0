//! Opening an image: read-only, claimed, and in the format given by its name or by the user.

use super::Image;
use super::beside::{InUse, Reach, claim_stable};
use super::chain;
use super::driver::Format;
use super::foreign::refuse_foreign;
use super::opening::Opening;
use super::raw::RawImage;
use crate::remote::{RemoteOptions, RemoteUrl};
use crate::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to do with a raw image that starts like another format.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Foreign {
    /// Refuse it: either it is not raw, or the guest wants it to be mistaken for another format.
    #[default]
    Refuse,
    /// Serve its bytes as the disk anyway.
    Serve,
}

/// How to open an image.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Its format; if `None`, the format that its name stands for. The content is never probed.
    pub format: Option<Format>,
    /// What to do if another program writes to it.
    pub in_use: InUse,
    /// What to do if it is raw and looks like another format.
    pub foreign: Foreign,
    /// Directories in which backing images may lie, besides the directory of the image that names
    /// them.
    pub backing_dirs: Vec<PathBuf>,
    /// How to read remote images.
    pub remote: RemoteOptions,
}

/// Open the image at `path`, a file or a URL, read-only, and claim it: from then on, a QEMU that wants
/// to write to it gets the error that the image is in use.
///
/// # Errors
/// [`ErrorKind::NotFound`] for a missing file, [`ErrorKind::Io`] for one that cannot be read,
/// [`ErrorKind::Invalid`] for an empty file and for anything that is neither a file nor a block
/// device, [`ErrorKind::Busy`] when it is in use, [`ErrorKind::Unsupported`] for an unsupported
/// format or feature, [`ErrorKind::Corrupt`] when it violates its format.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Arc<dyn Image>> {
    let opening = Opening::named(path, &options.remote)?;
    claim_stable(&opening, options.in_use)?;
    let format = options.format.unwrap_or_else(|| Format::of_path(&file_path(path, options)));
    if format.0.is_plain() {
        if options.foreign == Foreign::Refuse {
            refuse_foreign(&opening)?;
        }
        return Ok(Arc::new(RawImage::from(opening)));
    }
    let reach = Reach { in_use: options.in_use, dirs: &options.backing_dirs };
    Ok(Arc::new(chain::open_chain(opening, format.0, &reach)?))
}

/// The path whose extension says what the format of the image at `path` is.
fn file_path(path: &Path, options: &OpenOptions) -> PathBuf {
    let known = options.remote.urls.iter().find(|url| Path::new(&url.name()) == path).cloned();
    let url = known.or_else(|| RemoteUrl::of_path(path)?.ok());
    url.map_or_else(|| path.to_path_buf(), |url| url.file_path().to_path_buf())
}

/// The error for the image at `path` in the unsupported format `name` (as xl or QEMU calls it). If
/// the image cannot be opened at all, the error reports that instead.
pub fn unread(path: &Path, name: &str) -> Error {
    let shown = path.display();
    match Opening::new(path) {
        Err(e) if RemoteUrl::of_path(path).is_none() => e,
        _ => Error::new(
            ErrorKind::Unsupported,
            format!(
                "{shown} should be {name}: {name} is a format that is not read yet; convert it \
                 (qemu-img convert -O raw) and name the result"
            ),
        ),
    }
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
            (b"KDMV", "--image-format vmdk"),
            (b"QED\0", "qemu-img convert -f qed"),
            (b"conectix", "--image-format vhd"),
        ] {
            let (_dir, path) = file("root.img", head);
            let e = open(&path, &OpenOptions::default()).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Unsupported);
            assert!(e.to_string().contains(word), "{e}");
            // Naming the raw format does not confirm that the image is meant to look like this.
            let raw = OpenOptions { format: Format::by_name("raw"), ..Default::default() };
            assert!(open(&path, &raw).is_err());
            let forced = OpenOptions { foreign: Foreign::Serve, ..raw.clone() };
            let image = open(&path, &forced).unwrap();
            let mut bytes = vec![0; head.len()];
            image.read_at(&mut bytes, 0).unwrap();
            assert_eq!((&bytes[..], image.format(), image.len()), (head, "raw", 1 << 16));
        }
    }

    #[test]
    fn a_name_is_a_promise() {
        // Zeros are not a qcow2 file, whatever the file is called.
        let (_dir, path) = file("root.qcow2", b"");
        let e = open(&path, &OpenOptions::default()).unwrap_err();
        assert!(e.to_string().contains("not a qcow2 file"), "{e}");
        let raw = OpenOptions { format: Format::by_name("raw"), ..Default::default() };
        assert_eq!(open(&path, &raw).unwrap().format(), "raw");
    }
}
