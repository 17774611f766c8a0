//! Images that lie on other machines.
//!
//! A process of its own, the fetcher, talks to the server on which an image lies, and to nobody else:
//! it gets a URL, a few descriptors, and no right to open files. The process that reads the image asks
//! it for chunks over sockets, and reads those that are in the cache itself, from a file.
//!
//! ```text
//! RemoteFile (source) ──sockets──▶ fetcher ──▶ origin: HTTP, NBD
//!        │                            │
//!        └──reads── cache file ◀──writes (store)
//! ```
//!
//! What a chunk is and how it is checked is written in docs/remote.md.

mod cache;
mod certificates;
mod chunk;
mod credentials;
mod deadline;
mod fetcher;
mod http;
mod manifest;
mod nbd;
mod options;
mod origin;
mod recording;
mod session;
mod source;
mod start;
mod store;
mod url;
mod wire;

pub use fetcher::fetch;
pub use manifest::write_manifest;
#[doc(hidden)]
pub use nbd::negotiate_with;
pub use options::RemoteOptions;
pub use recording::begin_recording;
pub use source::RemoteFile;
pub use start::fetch_with;
pub use url::RemoteUrl;
