//! What a user may say about remote images.

use super::url::RemoteUrl;
use std::path::PathBuf;

/// How to read remote images.
#[derive(Clone, Debug, Default)]
pub struct RemoteOptions {
    /// URLs with secrets; images are looked for here by [`RemoteUrl::name`].
    pub urls: Vec<RemoteUrl>,
    /// The directory of the cache; `None` for the user's.
    pub cache_dir: Option<PathBuf>,
    /// How much the cache may occupy, in bytes; 0 for no cache.
    pub cache_size: Option<u64>,
    /// The recording to which the chunks that are used are added; it was begun.
    pub record: Option<PathBuf>,
    /// A recording whose chunks are fetched before they are asked for.
    pub prefetch: Option<PathBuf>,
    /// Checksums of images; if there are any, each image needs those of a file of its length.
    pub manifests: Vec<PathBuf>,
}

impl RemoteOptions {
    /// Maximum size of the cache in bytes, unless another is given.
    pub const DEFAULT_CACHE_SIZE: u64 = 10 << 30;
}
