//! The current UUID of a filesystem, read through an overlay that is not yet part of a disk.

use super::source::SourceImage;
use crate::bytes::ReadAt;
use crate::disk::{Base, Overlay, Run};
use crate::fs::probe::{HEAD_LEN, probe, uuid_text};
use crate::image::Image;
use crate::layout::Placed;
use std::io;

/// A disk with a single partition.
struct Only<'a> {
    start: u64,
    image: &'a dyn Image,
}

impl ReadAt for Only<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        // Only the start of the partition is read.
        let at = offset.checked_sub(self.start).ok_or(io::ErrorKind::InvalidInput)?;
        let there = self.image.len().saturating_sub(at).min(buf.len() as u64) as usize;
        let (image, rest) = buf.split_at_mut(there);
        rest.fill(0);
        self.image.read_at(image, at)
    }

    fn len(&self) -> u64 {
        self.start + self.image.len()
    }
}

impl Base for Only<'_> {
    fn is_zero(&self, _: u64, _: u64) -> bool {
        false
    }
}

/// The UUID of the filesystem in partition `placed`, made from `image`, if it differs from the
/// image's UUID.
pub(super) fn changed_uuid(
    overlay: &dyn Overlay,
    placed: &Placed,
    image: &SourceImage,
) -> io::Result<Option<String>> {
    let len = (HEAD_LEN as u64).min(placed.len);
    if overlay.run_at(placed.start, len)? == (Run::Base, len) {
        return Ok(None);
    }
    let mut head = vec![0; len as usize];
    let base = Only { start: placed.start, image: &*image.image };
    overlay.read_at(&base, &mut head, placed.start)?;
    let now = probe(&head, placed.len).uuid();
    Ok(now.filter(|uuid| Some(*uuid) != image.content.uuid()).map(|uuid| uuid_text(&uuid)))
}
