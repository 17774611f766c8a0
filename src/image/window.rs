//! A part of an image, as an image of its own: a partition of an image that is a whole disk.

use super::{Image, ImageFile, MappedSlice};
use crate::bytes::{Extent, Extents, ReadAt};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A range of an image. Offsets and lengths in bytes.
#[derive(Debug)]
pub struct Window {
    image: Arc<dyn Image>,
    start: u64,
    len: u64,
}

impl Window {
    /// The `len` bytes of `image` from `start` on, or fewer at its end.
    pub fn new(image: Arc<dyn Image>, start: u64, len: u64) -> Self {
        let start = start.min(image.len());
        let len = len.min(image.len() - start);
        Self { image, start, len }
    }

    /// The offset in the image, if `len` bytes at `offset` lie in the window.
    fn at(&self, offset: u64, len: u64) -> Option<u64> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then_some(self.start + offset)
    }
}

impl ReadAt for Window {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let at = self.at(offset, buf.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.image.read_at(buf, at)
    }

    fn len(&self) -> u64 {
        self.len
    }
}

impl Extents for Window {
    fn extent_at(&self, offset: u64) -> io::Result<Extent> {
        let at = self.at(offset, 1).ok_or(io::ErrorKind::UnexpectedEof)?;
        let found = self.image.extent_at(at)?;
        Ok(Extent { end: (found.end - self.start).min(self.len), ..found })
    }
}

impl Image for Window {
    fn map(&self, offset: u64, len: usize) -> Option<MappedSlice> {
        self.image.map(self.at(offset, len as u64)?, len)
    }

    fn allocated(&self) -> u64 {
        self.image.allocated().min(self.len)
    }

    fn path(&self) -> &Path {
        self.image.path()
    }

    fn version(&self) -> Option<String> {
        self.image.version()
    }

    fn notes(&self) -> Vec<String> {
        self.image.notes()
    }

    fn format(&self) -> &'static str {
        self.image.format()
    }

    fn files(&self) -> Vec<ImageFile> {
        self.image.files()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::RawImage;

    #[test]
    fn only_its_part_is_seen() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..4096u32).map(|i| (i / 16) as u8).collect();
        std::fs::write(file.path(), &bytes).unwrap();
        let image: Arc<dyn Image> = Arc::new(RawImage::open(file.path()).unwrap());
        let window = Window::new(Arc::clone(&image), 1000, 500);
        let mut buf = [0; 500];
        window.read_at(&mut buf, 0).unwrap();
        assert_eq!(buf, bytes[1000..1500]);
        assert_eq!(window.extent_at(0).unwrap(), Extent { data: true, end: 500 });
        for (offset, len) in [(0, 501), (500, 1), (u64::MAX, 2)] {
            let read = window.read_at(&mut vec![0; len], offset);
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            assert!(window.map(offset, len).is_none());
        }
        assert_eq!(Window::new(Arc::clone(&image), 4000, 500).len(), 96);
        assert_eq!(Window::new(image, 5000, 500).len(), 0);
    }
}
