//! Images that lie on other machines.

mod ahead;
mod cache;
mod faults;
mod http;
mod nbd;
mod processes;

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::common::file::{Aligned, direct};
use crate::common::http::HttpServer;
use crate::common::mount::Mount;
use crate::common::tiny::Tiny;

/// Length of a chunk in bytes, as docs/remote.md says.
const CHUNK: u64 = 512 << 10;
/// A chunk of a `Tiny` that nothing reads when a disk is planned.
const UNREAD: u64 = 24 * CHUNK;

/// A small guest, a server that has its image, and a cache directory.
struct Scene {
    tiny: Tiny,
    server: HttpServer,
    cache: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let tiny = Tiny::new();
        let server = HttpServer::new(&tiny.image);
        let cache = tiny.file("cache");
        Self { tiny, server, cache }
    }

    fn cache_dir(&self) -> &str {
        self.cache.to_str().expect("UTF-8")
    }

    fn mount(&self) -> Mount {
        self.mount_with(&[])
    }

    fn mount_with(&self, options: &[&str]) -> Mount {
        let mut all = vec!["--cache-dir", self.cache_dir()];
        all.extend(options);
        Mount::new(&all, self.server.url("guest.img"))
    }

    /// What the image has at `offset`.
    fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        read(&self.tiny.image, offset, len).expect("the image")
    }
}

/// `len` bytes at `offset` of a file, not from the page cache.
fn read(path: impl AsRef<Path>, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let file: File = direct(path, false);
    Aligned::read(&file, offset, len)
}
