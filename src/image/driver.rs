//! What an image format provides, and what it gets.

use super::beside::Reach;
use super::layer::Layer;
use super::opening::Opening;
use crate::Result;
use std::path::PathBuf;

/// A supported image format.
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Format(pub(super) &'static Driver);

/// Reads the images of one format.
pub(super) struct Driver {
    /// xl's name for the format, or QEMU's where xl has none.
    pub(super) name: &'static str,
    /// QEMU's name for the format.
    pub(super) qemu_name: &'static str,
    /// Its name in messages.
    pub(super) shown: &'static str,
    /// File name extensions of the format, in lower case.
    pub(super) extensions: &'static [&'static str],
    /// Reads the metadata of a file; `None` if the file's bytes are the disk's bytes, so that they
    /// may look like any format.
    pub(super) layer: Option<fn(Opening, &Reach<'_>) -> Result<FoundLayer>>,
}

impl Driver {
    /// Whether the file's bytes are the disk's bytes.
    pub(super) fn is_plain(&self) -> bool {
        self.layer.is_none()
    }
}

/// A layer, and what it depends on.
pub(super) struct FoundLayer {
    pub(super) layer: Box<dyn Layer>,
    /// What an image that depends on this one records of it, where the format has such an
    /// identifier.
    pub(super) id: Option<String>,
    pub(super) backing: Option<Backing>,
}

impl FoundLayer {
    /// A layer that depends on nothing.
    pub(super) fn alone(layer: impl Layer + 'static) -> Self {
        Self { layer: Box::new(layer), id: None, backing: None }
    }
}

/// A backing image as the image that depends on it describes it. Nothing of it can be trusted.
pub(super) struct Backing {
    /// Where it may be, most likely place first; relative to the directory of the image that depends
    /// on it, or absolute.
    pub(super) paths: Vec<PathBuf>,
    /// Its format as QEMU calls it, if recorded; otherwise its name decides.
    pub(super) format: Option<String>,
    /// Its recorded identifier. An image whose format has none is not compared.
    pub(super) id: Option<String>,
}
