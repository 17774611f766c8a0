//! Comparing images with what `qemu-img` reads from them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use synthdisk::image::{Format, Image, OpenOptions, open};

use crate::common::hash::Untouched;
use crate::common::process::run;

pub fn arg(path: &Path) -> &str {
    path.to_str().expect("temporary directories have plain names")
}

/// Open the image at `path` in the format that `format` names, or that its name stands for.
pub fn opened(path: &Path, format: Option<&str>) -> synthdisk::Result<Arc<dyn Image>> {
    let format = format.map(|name| Format::parse(name).unwrap());
    open(path, &OpenOptions { format, ..OpenOptions::default() })
}

/// The disk of the image at `path`, as QEMU's driver `format` reads it.
pub fn by_qemu(path: &Path, format: &str) -> Vec<u8> {
    let out = path.with_extension("by-qemu");
    run("qemu-img", &["convert", "-f", format, "-O", "raw", arg(path), arg(&out)]);
    let bytes = std::fs::read(&out).unwrap();
    std::fs::remove_file(&out).unwrap();
    bytes
}

/// The image at `path` shows `expected`: by reads at odd offsets and lengths, in whole, through mapped
/// memory, and its holes are zeros. Its `files` do not change.
pub fn compare(path: &Path, format: Option<&str>, expected: &[u8], files: &[PathBuf]) {
    let untouched: Vec<_> = files.iter().map(Untouched::remember).collect();
    let image = opened(path, format).unwrap();
    let shown = path.display();
    assert_eq!(image.len(), expected.len() as u64, "length of {shown}");
    let mut whole = vec![1; expected.len()];
    image.read_at(&mut whole, 0).unwrap();
    let differs = whole.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(differs, None, "first differing byte of {shown}");
    let again = opened(path, format).unwrap();
    let (mut at, mut step) = (0, 1);
    while at < expected.len() {
        let end = (at + step).min(expected.len());
        let mut buf = vec![1; end - at];
        again.read_at(&mut buf, at as u64).unwrap();
        assert!(buf == expected[at..end], "{at}..{end} of {shown}");
        if let Some(slice) = again.map(at as u64, end - at) {
            // Nobody cuts the file short here.
            assert!(slice.for_syscall() == &expected[at..end], "mapped {at}..{end} of {shown}");
        }
        at = end;
        step = step * 5 % 177_777 + 1;
    }
    let mut at = 0;
    while at < image.len() {
        let extent = image.extent_at(at).unwrap();
        assert!(extent.end > at && extent.end <= image.len(), "{extent:?} at {at} of {shown}");
        let range = &expected[at as usize..extent.end as usize];
        assert!(extent.data || range.iter().all(|b| *b == 0), "hole at {at} of {shown}");
        at = extent.end;
    }
    for (offset, len) in [(image.len() - 1, 2), (image.len(), 1), (u64::MAX, 1)] {
        assert!(image.read_at(&mut vec![0; len], offset).is_err());
        assert!(image.map(offset, len).is_none());
    }
    drop((image, again));
    untouched.iter().for_each(Untouched::check);
}
