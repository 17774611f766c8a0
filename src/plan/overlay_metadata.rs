//! What an overlay stores about the disk it belongs to.

use super::options::SourceOptions;
use super::source::SourceImage;
use super::types::DiskShape;
use crate::bytes::ReadAt;
use crate::layout::{Ids, Layout, format_size};
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use uuid::Uuid;

const VERSION: u32 = 1;
/// Of an overlay whose layout is that of an image with a partition table of its own, which earlier
/// programs do not know.
const VERSION_OWN_TABLE: u32 = 2;

/// Stored as JSON in the overlay's header.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct OverlayMetadata {
    version: u32,
    /// The layout; none on a disk that is a single image.
    pub(super) layout: Option<Layout>,
    pub(super) shape: DiskShape,
    disk_id: u32,
    disk_guid: Uuid,
    swap_uuid: Uuid,
    images: Vec<ImageMark>,
}

/// An image's state when the overlay was made.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct ImageMark {
    /// Partition number; 0 for a whole disk.
    number: u32,
    /// Length in bytes.
    len: u64,
    fingerprint: Uuid,
}

fn version_for(layout: Option<&Layout>) -> u32 {
    let own = layout.is_some_and(|layout| layout.image_len.is_some());
    if own { VERSION_OWN_TABLE } else { VERSION }
}

impl ImageMark {
    pub(super) fn new(number: u32, image: &SourceImage) -> Self {
        Self { number, len: image.image.len(), fingerprint: image.fingerprint }
    }
}

impl OverlayMetadata {
    pub(super) fn new(
        layout: Option<Layout>,
        shape: DiskShape,
        ids: Ids,
        images: Vec<ImageMark>,
    ) -> Self {
        Self {
            version: version_for(layout.as_ref()),
            layout,
            shape,
            disk_id: ids.disk_id,
            disk_guid: ids.disk_guid,
            swap_uuid: ids.swap_uuid,
            images,
        }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|e| Error::with_source(ErrorKind::Invalid, "the layout cannot be encoded", e))
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let found: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::with_source(ErrorKind::Corrupt, "its layout cannot be read", e))?;
        if found.version != version_for(found.layout.as_ref()) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "it was made by another version of synthdisk; use that one",
            ));
        }
        if let Some(layout) = &found.layout {
            layout.validate()?;
        }
        Ok(found)
    }

    pub(super) fn ids(&self) -> Ids {
        Ids { disk_id: self.disk_id, disk_guid: self.disk_guid, swap_uuid: self.swap_uuid }
    }

    /// Refuses images other than those that the overlay was made for (`images`, with their numbers
    /// and paths), and options that would change its layout.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with the difference.
    pub(super) fn check(
        &self,
        overlay: &Path,
        options: &SourceOptions,
        images: &[(u32, &SourceImage)],
    ) -> Result<()> {
        let overlay = overlay.display();
        let refuse = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        let numbers: Vec<u32> = images.iter().map(|(n, _)| *n).collect();
        if numbers != self.images.iter().map(|m| m.number).collect::<Vec<_>>() {
            return refuse(format!(
                "the overlay {overlay} was made for other partitions; name the same images in the \
                 same order, or use another overlay"
            ));
        }
        for ((_, image), mark) in images.iter().zip(&self.images) {
            let shown = image.image.path().display();
            let len = image.image.len();
            if len != mark.len {
                return refuse(format!(
                    "the overlay {overlay} belongs to an image of {}, but {shown} has {}; use the \
                     image it was made for, or another overlay",
                    format_size(mark.len),
                    format_size(len)
                ));
            }
            if image.fingerprint != mark.fingerprint {
                return refuse(format!(
                    "the overlay {overlay} was made for another image, or {shown} was changed \
                     since; use the image as it was then, or another overlay"
                ));
            }
        }
        self.check_options(&overlay.to_string(), options)
    }

    fn check_options(&self, overlay: &str, options: &SourceOptions) -> Result<()> {
        let shape = self.shape;
        let table = self.layout.as_ref().map(|layout| layout.table);
        let lower = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
        let root_size = shape.root_size.map_or("the image's own size".into(), format_size);
        let swap = match shape.swap {
            0 => "none but what images stand for".into(),
            len => format_size(len),
        };
        let contradictions = [
            ("swap", options.swap.is_some_and(|v| v != shape.swap), swap),
            ("align", options.align.is_some_and(|v| v != shape.align), format_size(shape.align)),
            (
                "root-size",
                options.root_size.is_some() && options.root_size != shape.root_size,
                root_size,
            ),
            (
                "table",
                table.is_some_and(|table| options.table.is_some_and(|v| v != table)),
                table.map_or_else(String::new, |table| lower(&table)),
            ),
            (
                "bootloader",
                options.bootloader.is_some_and(|v| !v.can_replace(shape.bootloader)),
                shape.bootloader.to_string(),
            ),
            ("firmware", options.firmware.is_some_and(|v| !shape.fits(v)), lower(&shape.firmware)),
            (
                "disk-id",
                options.disk_id.is_some_and(|v| v != self.disk_id),
                format!("{:08x}", self.disk_id),
            ),
            (
                "swap-uuid",
                options.swap_uuid.is_some_and(|v| v != self.swap_uuid),
                self.swap_uuid.to_string(),
            ),
        ];
        match contradictions.into_iter().find(|(_, differs, _)| *differs) {
            Some((name, _, there)) => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "--{name} contradicts the overlay {overlay}, which was made with {there}; a \
                     disk cannot change its layout under its overlay"
                ),
            )),
            None => Ok(()),
        }
    }
}
