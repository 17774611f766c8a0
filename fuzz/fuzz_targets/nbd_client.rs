//! What an NBD server says to the client that reads a remote image: negotiation and one reply.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::{self, Read, Write};

struct Says<'a>(&'a [u8]);

impl Read for Says<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Says<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    synthdisk::remote::negotiate_with(Says(data));
});
