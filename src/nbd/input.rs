//! What a client has sent and nobody has looked at yet.

use std::io;

/// The most that is kept, in bytes: longer payloads are handled in pieces.
pub(super) const PIECE: usize = 1 << 20;
/// Room for the header of the next request.
const SLACK: usize = 64;
/// From this length on, the rest of a payload is received alone: bytes of the next request would
/// have to be moved to the start of the buffer.
const ALONE: usize = 64 << 10;

/// Received bytes. Memory is used as far as it was filled once.
#[derive(Debug)]
pub(super) struct Input {
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub fn new() -> Self {
        Self { buf: vec![0; PIECE + SLACK], start: 0, end: 0 }
    }

    /// All received bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// The first `len` bytes have been dealt with.
    pub fn consume(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
    }

    /// Call `receive` until there are `want` bytes, at most [`PIECE`]. Returns false if the client
    /// sends no more.
    ///
    /// # Errors
    /// Errors of `receive`.
    pub fn fill(
        &mut self,
        want: usize,
        mut receive: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<bool> {
        while self.bytes().len() < want {
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
            } else if self.start + want > self.buf.len() {
                self.buf.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            let missing = want - self.bytes().len();
            let until = if missing >= ALONE { self.end + missing } else { self.buf.len() };
            match receive(&mut self.buf[self.end..until])? {
                0 => return Ok(false),
                n => self.end += n,
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_in_order_however_they_come() {
        let mut input = Input::new();
        let (mut sent, mut seen) = (0u32, 0u32);
        // Counts up in bytes, in receives of odd lengths.
        let mut receive = |buf: &mut [u8]| {
            let n = buf.len().min(70_001);
            for byte in &mut buf[..n] {
                *byte = (sent % 251) as u8;
                sent += 1;
            }
            Ok(n)
        };
        for want in [28, PIECE, 28, 1, 300_000, 28, PIECE, 28, 4096, 28] {
            assert!(input.fill(want, &mut receive).unwrap());
            for byte in &input.bytes()[..want] {
                assert_eq!(u32::from(*byte), seen % 251);
                seen += 1;
            }
            input.consume(want);
        }
        let left = input.bytes().len();
        assert!(!input.fill(left + 1, |_| Ok(0)).unwrap());
    }
}
