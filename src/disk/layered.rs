//! A temporary overlay on top of an overlay that is only read.
//!
//! `finalize` makes the same edits as a mount, but must not write them to the persistent overlay's
//! file.

use super::overlay::{Base, Overlay, Run};
use super::scratch::Scratch;
use crate::bytes::ReadAt;
use std::fs::File;
use std::io;

/// Writes go to a [`Scratch`]; everything else is read from the overlay below.
#[derive(Debug)]
pub struct LayeredOverlay {
    top: Scratch,
    below: Box<dyn Overlay>,
}

impl LayeredOverlay {
    /// Put `top`, which must be empty, over `below`, which is never written to.
    pub fn new(top: Scratch, below: Box<dyn Overlay>) -> Self {
        Self { top, below }
    }
}

/// The overlay below and its base, combined into the base of the overlay on top.
struct Under<'a> {
    below: &'a dyn Overlay,
    base: &'a dyn Base,
}

impl ReadAt for Under<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.below.read_at(self.base, buf, offset)
    }

    fn len(&self) -> u64 {
        self.base.len()
    }
}

impl Base for Under<'_> {
    fn is_zero(&self, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len);
        let mut at = offset;
        while at < end {
            match self.below.run_at(at, end - at) {
                Ok((Run::Zero, n)) => at += n,
                Ok((Run::Base, n)) if self.base.is_zero(at, n) => at += n,
                _ => return false,
            }
        }
        true
    }
}

impl Overlay for LayeredOverlay {
    fn run_at(&self, offset: u64, max: u64) -> io::Result<(Run, u64)> {
        match self.top.run_at(offset, max)? {
            (Run::Base, n) => self.below.run_at(offset, n),
            held => Ok(held),
        }
    }

    fn place_at(&self, offset: u64, max: u64) -> io::Result<Option<(&File, u64, u64)>> {
        match self.top.run_at(offset, max)? {
            (Run::Base, n) => self.below.place_at(offset, n),
            _ => self.top.place_at(offset, max),
        }
    }

    fn read_at(&self, base: &dyn Base, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.top.read_at(&Under { below: &*self.below, base }, buf, offset)
    }

    fn write_at(&self, base: &dyn Base, buf: &[u8], offset: u64) -> io::Result<()> {
        self.top.write_at(&Under { below: &*self.below, base }, buf, offset)
    }

    fn zero(&self, base: &dyn Base, offset: u64, len: u64) -> io::Result<()> {
        self.top.zero(&Under { below: &*self.below, base }, offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.top.sync()
    }

    fn set_limit(&self, limit: u64) {
        self.top.set_limit(limit);
    }

    fn limit(&self) -> Option<u64> {
        self.top.limit()
    }

    fn allocated(&self) -> u64 {
        self.top.allocated() + self.below.allocated()
    }

    fn cow_granularity(&self) -> u64 {
        self.top.cow_granularity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ones;

    impl ReadAt for Ones {
        fn read_at(&self, buf: &mut [u8], _offset: u64) -> io::Result<()> {
            buf.fill(1);
            Ok(())
        }

        fn len(&self) -> u64 {
            u64::MAX
        }
    }

    impl Base for Ones {
        fn is_zero(&self, _offset: u64, _len: u64) -> bool {
            false
        }
    }

    #[test]
    fn the_overlay_below_shows_through_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let len = 64 << 10;
        let below = Scratch::new(dir.path(), len).unwrap();
        below.write_at(&Ones, &[2; 8192], 4096).unwrap();
        below.zero(&Ones, 16384, 4096).unwrap();
        let stacked = LayeredOverlay::new(Scratch::new(dir.path(), len).unwrap(), Box::new(below));
        // The rest of the block comes from below, where data is stored.
        stacked.write_at(&Ones, &[3; 512], 8192 + 512).unwrap();
        // Nothing below needs hiding, so this becomes a hole.
        stacked.zero(&Ones, 16384, 4096).unwrap();
        stacked.zero(&Ones, 0, 4096).unwrap();
        let mut all = vec![9; len as usize];
        stacked.read_at(&Ones, &mut all, 0).unwrap();
        let mut expected = vec![1; len as usize];
        expected[..4096].fill(0);
        expected[4096..12288].fill(2);
        expected[8704..9216].fill(3);
        expected[16384..20480].fill(0);
        assert!(all == expected);
        assert_eq!(stacked.run_at(0, len).unwrap(), (Run::Zero, 4096));
        assert_eq!(stacked.run_at(4096, len).unwrap(), (Run::Data, 4096));
        assert_eq!(stacked.run_at(16384, len).unwrap(), (Run::Zero, 4096));
        assert_eq!(stacked.run_at(20480, len).unwrap().0, Run::Base);
        // `place_at` returns the file that holds the bytes.
        for (at, byte) in [(4096, 2), (8704, 3)] {
            use std::os::unix::fs::FileExt;
            let (file, place, _) = stacked.place_at(at, 512).unwrap().unwrap();
            let mut found = [0];
            file.read_exact_at(&mut found, place).unwrap();
            assert_eq!(found, [byte]);
        }
        assert!(stacked.place_at(0, 512).unwrap().is_none());
    }
}
