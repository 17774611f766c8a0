//! Makes a file an empty qcow2 file.

use super::table_buffer::TableBuffer;
use crate::disk::storage::Storage;
use crate::{Error, Result};
use imago::qcow2::Qcow2;
use imago::{DynStorage, FormatCreateBuilder};
use std::sync::Arc;

/// The file as `imago` sees it.
pub(super) type ImagoStorage = Arc<dyn DynStorage>;

/// What the tables of a new file are like.
#[derive(Clone, Copy, Debug)]
pub(in crate::disk) struct Geometry {
    /// Bytes per cluster.
    pub(in crate::disk) cluster: u64,
    /// Bits per refcount.
    pub(in crate::disk) refcount_bits: usize,
}

impl Geometry {
    /// That of new overlays: see docs/BENCHMARKS.md, "Cluster size"; QEMU's default for refcounts.
    pub(super) const NEW: Self = Self { cluster: 16 << 10, refcount_bits: 16 };
}

/// Make the empty `storage` a qcow2 file for a disk of `len` bytes, with the backing file and its
/// format if there is one.
///
/// # Errors
/// Write errors.
pub(super) fn format<S: Storage>(
    storage: &Arc<S>,
    len: u64,
    geometry: Geometry,
    backing: Option<(String, String)>,
) -> Result<()> {
    let tables = Arc::new(TableBuffer::new(Arc::clone(storage), geometry.cluster, false));
    let mut builder = Qcow2::<ImagoStorage>::create_builder(Arc::clone(&tables) as ImagoStorage)
        .cluster_size(geometry.cluster as usize)
        .refcount_width(geometry.refcount_bits)
        .size(len);
    if let Some((name, format)) = backing {
        builder = builder.backing(name, format);
    }
    builder
        .create()
        .and_then(|()| {
            tables.freeze();
            tables.write_out()
        })
        .map_err(|e| Error::io("cannot write the qcow2 header", e))
}
