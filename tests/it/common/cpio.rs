//! Writing cpio archives.

use std::io::Write as _;

/// The "newc" format (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
pub struct Cpio {
    out: Vec<u8>,
    inode: u32,
}

impl Cpio {
    /// Adds a file of `mode` (`st_mode`).
    pub fn add(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.inode += 1;
        let len = data.len() as u32;
        let header = [self.inode, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.out.extend(b"070701");
        for field in header {
            write!(self.out, "{field:08x}").unwrap();
        }
        self.out.extend(name.bytes());
        self.out.push(0);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
        self.out.extend(data);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }

    /// The archive with its end, in whole sectors.
    pub fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.out.resize(self.out.len().next_multiple_of(512), 0);
        self.out
    }
}
