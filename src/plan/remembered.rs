//! What an overlay remembers of the disk it belongs to.

use super::options::{Shape, SourceOptions};
use crate::layout::{Ids, Layout, format_size};
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use uuid::Uuid;

const VERSION: u32 = 1;

/// Stored as JSON in the overlay's header.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Remembered {
    version: u32,
    pub(super) layout: Layout,
    pub(super) shape: Shape,
    disk_id: u32,
    swap_uuid: Uuid,
    /// Length of the root image in bytes.
    image_len: u64,
    image_fingerprint: Uuid,
}

impl Remembered {
    pub(super) fn new(
        layout: Layout,
        shape: Shape,
        ids: Ids,
        image_len: u64,
        image_fingerprint: Uuid,
    ) -> Self {
        Self {
            version: VERSION,
            layout,
            shape,
            disk_id: ids.disk_id,
            swap_uuid: ids.swap_uuid,
            image_len,
            image_fingerprint,
        }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|e| Error::with_source(ErrorKind::Invalid, "the layout cannot be encoded", e))
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let found: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::with_source(ErrorKind::Corrupt, "its layout cannot be read", e))?;
        if found.version != VERSION {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "it was made by a newer synthdisk; use that one",
            ));
        }
        found.layout.validate()?;
        Ok(found)
    }

    pub(super) fn ids(&self) -> Ids {
        Ids { disk_id: self.disk_id, swap_uuid: self.swap_uuid }
    }

    /// Refuse an image other than the one the overlay was made for, and options that would move
    /// something under it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with what differs.
    pub(super) fn check(
        &self,
        overlay: &Path,
        options: &SourceOptions,
        image_len: u64,
        fingerprint: Uuid,
    ) -> Result<()> {
        let overlay = overlay.display();
        let image = options.images[0].display();
        let refuse = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        if image_len != self.image_len {
            return refuse(format!(
                "the overlay {overlay} belongs to an image of {}, but {image} has {}; use the \
                 image it was made for, or another overlay",
                format_size(self.image_len),
                format_size(image_len)
            ));
        }
        if fingerprint != self.image_fingerprint {
            return refuse(format!(
                "the overlay {overlay} was made for another image, or {image} was changed since; \
                 use the image as it was then, or another overlay"
            ));
        }
        let shape = self.shape;
        let differs = |name: &str, there: String| {
            refuse(format!(
                "--{name} contradicts the overlay {overlay}, which was made with {there}; a disk \
                 cannot change its layout under its overlay"
            ))
        };
        if options.swap.is_some_and(|swap| swap != shape.swap) {
            return differs("swap", format_size(shape.swap));
        }
        if options.align.is_some_and(|align| align != shape.align) {
            return differs("align", format_size(shape.align));
        }
        if options.root_size.is_some() && options.root_size != shape.root_size {
            let there = shape.root_size.map_or("the image's own size".into(), format_size);
            return differs("root-size", there);
        }
        if options.bootloader.is_some_and(|b| b != shape.bootloader) {
            return differs("bootloader", format!("{:?}", shape.bootloader).to_lowercase());
        }
        if options.disk_id.is_some_and(|id| id != self.disk_id) {
            return differs("disk-id", format!("{:08x}", self.disk_id));
        }
        if options.swap_uuid.is_some_and(|uuid| uuid != self.swap_uuid) {
            return differs("swap-uuid", self.swap_uuid.to_string());
        }
        Ok(())
    }
}
