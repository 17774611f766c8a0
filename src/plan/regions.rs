//! Collecting regions.

use crate::disk::{Region, RegionKind, Source};
use crate::image::Image;
use std::sync::Arc;

/// Regions in disk order. Empty ones are left out. Offsets are in bytes of the disk.
#[derive(Debug, Default)]
pub(super) struct RegionList(Vec<Region>);

impl RegionList {
    pub(super) fn push(
        &mut self,
        start: u64,
        stop: u64,
        kind: RegionKind,
        origin: &str,
        source: Source,
    ) {
        if stop > start {
            let (len, origin) = (stop - start, origin.to_owned());
            self.0.push(Region { start, len, kind, origin, source });
        }
    }

    pub(super) fn zeros(&mut self, start: u64, stop: u64, kind: RegionKind) {
        self.push(start, stop, kind, "zeros", Source::Zeros);
    }

    pub(super) fn bytes(&mut self, start: u64, kind: RegionKind, origin: &str, bytes: &[u8]) {
        self.push(start, start + bytes.len() as u64, kind, origin, Source::Bytes(bytes.into()));
    }

    /// Adds `image` from its start.
    pub(super) fn image(
        &mut self,
        start: u64,
        stop: u64,
        kind: RegionKind,
        image: &Arc<dyn Image>,
    ) {
        let origin = image.path().display().to_string();
        let source = Source::Image { image: Arc::clone(image), offset: 0 };
        self.push(start, stop, kind, &origin, source);
    }

    /// Adds the bytes of `image` at the same offsets, and zeros after its end.
    pub(super) fn part(&mut self, start: u64, stop: u64, kind: RegionKind, image: &Arc<dyn Image>) {
        let origin = image.path().display().to_string();
        let end = image.len().clamp(start, stop.max(start));
        let source = Source::Image { image: Arc::clone(image), offset: start };
        self.push(start, end, kind, &origin, source);
        self.zeros(end, stop, kind);
    }

    pub(super) fn append(&mut self, regions: Vec<Region>) {
        self.0.extend(regions);
    }

    pub(super) fn finish(self) -> Vec<Region> {
        self.0
    }
}
