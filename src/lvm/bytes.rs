//! Reading a logical volume through its physical volumes.

use super::map::VolumeMap;
use crate::bytes::ReadAt;
use std::io;

/// A logical volume that is read through its physical volumes.
#[derive(Clone, Debug)]
pub struct VolumeBytes<R> {
    map: VolumeMap,
    sources: Vec<R>,
}

impl<R> VolumeBytes<R> {
    /// The volume with this map; `sources` are all physical volumes that were surveyed, in the same
    /// order.
    pub fn new(map: VolumeMap, sources: Vec<R>) -> Self {
        Self { map, sources }
    }
}

impl<R: ReadAt> ReadAt for VolumeBytes<R> {
    fn read_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let end = || io::Error::from(io::ErrorKind::UnexpectedEof);
            let piece = self.map.locate(offset).ok_or_else(end)?;
            let n = piece.len.min(buf.len() as u64) as usize;
            let (now, later) = buf.split_at_mut(n);
            self.sources.get(piece.source).ok_or_else(end)?.read_at(now, piece.offset)?;
            buf = later;
            offset += n as u64;
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.map.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::map::{Segment, Stripe};
    use super::*;

    #[test]
    fn reads_across_pieces() {
        let stripe = |source, offset| Stripe { source, offset };
        let segments = vec![
            Segment { len: 4, chunk: 0, stripes: vec![stripe(1, 1)] },
            Segment { len: 8, chunk: 2, stripes: vec![stripe(0, 0), stripe(1, 8)] },
        ];
        let sources = vec![b"ABCDEFGH".to_vec(), b"0123456789ab".to_vec()];
        let volume = VolumeBytes::new(VolumeMap::new(segments).unwrap(), sources);
        let mut all = [0; 12];
        volume.read_at(&mut all, 0).unwrap();
        assert_eq!(&all, b"1234AB89CDab");
        let mut some = [0; 5];
        volume.read_at(&mut some, 3).unwrap();
        assert_eq!(&some, b"4AB89");
        assert!(volume.read_at(&mut some, 8).is_err());
    }
}
