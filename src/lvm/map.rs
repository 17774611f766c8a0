//! The map of a logical volume: which byte of it is which byte of which physical volume.

use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// A part of a stripe set or, alone, of a linear segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Stripe {
    /// The physical volume, by its index among those that were surveyed.
    pub source: usize,
    /// First byte there.
    pub offset: u64,
}

/// A run of bytes of a volume that is stored in one way.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Length in bytes.
    pub len: u64,
    /// Bytes that lie in one stripe before the next follows; of no meaning for a single stripe.
    pub chunk: u64,
    /// The stripes, in turn.
    pub stripes: Vec<Stripe>,
}

/// Consecutive bytes of a physical volume.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Range {
    /// The physical volume.
    pub source: usize,
    /// First byte there.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// Where bytes of a volume lie: a [`Range`] of a physical volume that begins with a given byte.
pub type Piece = Range;

/// The map of a logical volume.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct VolumeMap {
    segments: Vec<Segment>,
    /// First byte after each segment.
    ends: Vec<u64>,
}

impl Segment {
    /// The number of stripes, and the bytes in each of them.
    fn shape(&self) -> (u64, u64) {
        let stripes = self.stripes.len() as u64;
        (stripes, self.len / stripes.max(1))
    }

    fn is_valid(&self) -> bool {
        let (stripes, each) = self.shape();
        let in_chunks = stripes == 1 || (self.chunk > 0 && each % self.chunk == 0);
        let fits = |s: &Stripe| s.offset.checked_add(each).is_some();
        stripes > 0
            && self.len > 0
            && self.len % stripes == 0
            && in_chunks
            && self.stripes.iter().all(fits)
    }

    /// Where the byte at `offset` of the segment lies, and what follows it there.
    fn locate(&self, offset: u64) -> Range {
        let (stripes, _) = self.shape();
        if stripes == 1 {
            let Stripe { source, offset: start } = self.stripes[0];
            return Range { source, offset: start + offset, len: self.len - offset };
        }
        let (row, within) = (offset / self.chunk / stripes, offset % self.chunk);
        // The remainder is less than the number of stripes.
        let stripe = self.stripes[(offset / self.chunk % stripes) as usize];
        let at = stripe.offset + row * self.chunk + within;
        Range { source: stripe.source, offset: at, len: self.chunk - within }
    }
}

impl VolumeMap {
    /// The map of a volume that consists of `segments` in this order.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for segments without bytes or stripes, whose stripes do not consist of
    /// whole chunks, or whose lengths cannot be added.
    pub fn new(segments: Vec<Segment>) -> Result<Self> {
        let mut end = 0_u64;
        let mut ends = Vec::new();
        for segment in &segments {
            let next = Some(segment).filter(|s| s.is_valid()).and_then(|s| end.checked_add(s.len));
            end = next.ok_or_else(damaged)?;
            ends.push(end);
        }
        Ok(Self { segments, ends })
    }

    /// Length of the volume in bytes.
    pub fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Whether the volume has no bytes.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Checks a map from another process: it must be one that [`VolumeMap::new`] makes, and lie
    /// within the physical volumes, whose lengths in bytes are `lens`.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`].
    pub fn check(&self, lens: &[u64]) -> Result<()> {
        let same = Self::new(self.segments.clone())?;
        let inside = |range: Range| {
            let end = range.offset.checked_add(range.len);
            lens.get(range.source).zip(end).is_some_and(|(len, end)| end <= *len)
        };
        let fits = same == *self && self.stored().all(inside);
        if fits { Ok(()) } else { Err(damaged()) }
    }

    /// All bytes of the physical volumes that the volume consists of, once each.
    pub fn stored(&self) -> impl Iterator<Item = Range> {
        self.segments.iter().flat_map(|segment| {
            let (_, len) = segment.shape();
            segment.stripes.iter().map(move |s| Range { source: s.source, offset: s.offset, len })
        })
    }

    /// Where the byte at `offset` lies, and how many of the bytes after it follow there; `None` past
    /// the end.
    pub fn locate(&self, offset: u64) -> Option<Piece> {
        let index = self.ends.partition_point(|end| *end <= offset);
        let segment = self.segments.get(index)?;
        Some(segment.locate(offset - (self.ends[index] - segment.len)))
    }

    /// The physical bytes of `len` bytes at `offset`, and perhaps some more: at most one range for
    /// each stripe of each segment, so that a long range of small stripes is not listed one by one.
    pub fn ranges(&self, offset: u64, len: u64) -> Vec<Range> {
        let end = offset.saturating_add(len).min(self.len());
        let mut out = Vec::new();
        let first = self.ends.partition_point(|end| *end <= offset);
        for (segment, segment_end) in self.segments.iter().zip(&self.ends).skip(first) {
            let start = segment_end - segment.len;
            if start >= end {
                break;
            }
            let (from, to) = (offset.max(start) - start, end.min(*segment_end) - start);
            let (stripes, each) = segment.shape();
            let (from, to) = match stripes {
                1 => (from, to),
                _ => {
                    let row = segment.chunk * stripes;
                    let rows = (from / row, to.div_ceil(row));
                    (rows.0 * segment.chunk, (rows.1 * segment.chunk).min(each))
                }
            };
            let range =
                |s: &Stripe| Range { source: s.source, offset: s.offset + from, len: to - from };
            out.extend(segment.stripes.iter().map(range));
        }
        out
    }

    /// The physical bytes of `len` bytes at `offset`, and no others, in no particular order: at most
    /// three ranges for each stripe of each segment.
    pub fn exact_ranges(&self, offset: u64, len: u64) -> Vec<Range> {
        let end = offset.saturating_add(len).min(self.len());
        let mut out = Vec::new();
        let mut at = offset;
        while at < end {
            let index = self.ends.partition_point(|end| *end <= at);
            let (segment, segment_end) = (&self.segments[index], self.ends[index]);
            let start = segment_end - segment.len;
            let row = segment.chunk.saturating_mul(segment.stripes.len() as u64);
            let to = end.min(segment_end);
            let rows = (to - at) / row.max(1) * row;
            if segment.stripes.len() == 1 {
                out.extend(self.ranges(at, to - at));
                at = to;
            } else if (at - start) % row == 0 && rows > 0 {
                out.extend(self.ranges(at, rows));
                at += rows;
            } else {
                let piece = segment.locate(at - start);
                let n = piece.len.min(to - at);
                out.push(Range { len: n, ..piece });
                at += n;
            }
        }
        out
    }

    /// Whether the bytes after the one at `offset` follow it in one place, up to the end of a
    /// segment.
    pub fn is_linear_at(&self, offset: u64) -> bool {
        let index = self.ends.partition_point(|end| *end <= offset);
        self.segments.get(index).is_none_or(|segment| segment.stripes.len() == 1)
    }

    /// First byte after the segment that contains `offset`.
    pub fn segment_end(&self, offset: u64) -> u64 {
        let index = self.ends.partition_point(|end| *end <= offset);
        self.ends.get(index).copied().unwrap_or_else(|| self.len())
    }

    /// The bytes of the volume that lie in a range of a physical volume, and perhaps some more, as
    /// start and length: at most one range for each stripe.
    pub fn shown(&self, range: Range) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        let range_end = range.offset.saturating_add(range.len);
        for (segment, segment_end) in self.segments.iter().zip(&self.ends) {
            let (stripes, each) = segment.shape();
            for stripe in segment.stripes.iter().filter(|s| s.source == range.source) {
                let from = range.offset.max(stripe.offset);
                let to = range_end.min(stripe.offset + each);
                if from >= to {
                    continue;
                }
                let (from, to) = (from - stripe.offset, to - stripe.offset);
                let (from, to) = match stripes {
                    1 => (from, to),
                    _ => {
                        let row = segment.chunk * stripes;
                        (from / segment.chunk * row, to.div_ceil(segment.chunk) * row)
                    }
                };
                out.push((segment_end - segment.len + from, to - from));
            }
        }
        out
    }
}

fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, "its metadata maps it to places that cannot exist")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(len: u64, source: usize, offset: u64) -> Segment {
        Segment { len, chunk: 0, stripes: vec![Stripe { source, offset }] }
    }

    fn striped(len: u64, chunk: u64, stripes: &[(usize, u64)]) -> Segment {
        let stripe = |&(source, offset): &(usize, u64)| Stripe { source, offset };
        Segment { len, chunk, stripes: stripes.iter().map(stripe).collect() }
    }

    fn map() -> VolumeMap {
        let striped = striped(24, 4, &[(0, 100), (1, 50), (0, 200)]);
        VolumeMap::new(vec![linear(10, 1, 5), striped, linear(6, 0, 0)]).unwrap()
    }

    #[test]
    fn every_byte_has_one_place() {
        let map = map();
        assert_eq!(map.len(), 40);
        let at = |offset| map.locate(offset).map(|r| (r.source, r.offset, r.len));
        for (offset, expected) in [
            (0, Some((1, 5, 10))),
            (9, Some((1, 14, 1))),
            (10, Some((0, 100, 4))),
            (13, Some((0, 103, 1))),
            (14, Some((1, 50, 4))),
            (18, Some((0, 200, 4))),
            (22, Some((0, 104, 4))),
            (33, Some((0, 207, 1))),
            (34, Some((0, 0, 6))),
            (40, None),
            (u64::MAX, None),
        ] {
            assert_eq!(at(offset), expected, "{offset}");
        }
        map.check(&[208, 58]).unwrap();
        assert!(map.check(&[207, 58]).is_err() && map.check(&[208, 57]).is_err());
        assert!(map.check(&[208]).is_err());
    }

    /// The two summaries cover what byte-by-byte lookups find.
    #[test]
    fn ranges_cover_and_are_few() {
        let map = map();
        for start in 0..map.len() {
            for len in 1..=map.len() - start {
                let ranges = map.ranges(start, len);
                assert!(ranges.len() <= 5);
                for offset in start..start + len {
                    let place = map.locate(offset).unwrap();
                    let holds = |r: &Range| {
                        r.source == place.source
                            && (r.offset..r.offset + r.len).contains(&place.offset)
                    };
                    assert!(ranges.iter().any(holds), "{start} {len} {offset}");
                    let one = Range { len: 1, ..place };
                    let shown = map.shown(one);
                    assert!(shown.iter().any(|(s, n)| (*s..s + n).contains(&offset)), "{offset}");
                }
                for range in &ranges {
                    assert!(range.offset + range.len <= [208, 58][range.source]);
                }
                let listed = |ranges: Vec<Range>| {
                    let bytes = |r: Range| (r.offset..r.offset + r.len).map(move |b| (r.source, b));
                    let mut all: Vec<_> = ranges.into_iter().flat_map(bytes).collect();
                    all.sort_unstable();
                    all
                };
                let one = |offset| Range { len: 1, ..map.locate(offset).unwrap() };
                let expected = listed((start..start + len).map(one).collect());
                assert_eq!(listed(map.exact_ranges(start, len)), expected, "{start} {len}");
            }
        }
        assert!(map.ranges(40, 7).is_empty() && map.ranges(u64::MAX, 7).is_empty());
        assert!(map.shown(Range { source: 1, offset: 58, len: 9 }).is_empty());
        assert_eq!(map.ranges(1, 2), [Range { source: 1, offset: 6, len: 2 }]);
    }

    #[test]
    fn impossible_maps_are_refused() {
        for segments in [
            vec![linear(0, 0, 0)],
            vec![striped(4, 4, &[])],
            vec![striped(24, 0, &[(0, 0), (1, 0)])],
            vec![striped(24, 5, &[(0, 0), (1, 0)])],
            vec![striped(25, 4, &[(0, 0), (1, 0)])],
            vec![linear(2, 0, u64::MAX)],
            vec![linear(u64::MAX, 0, 0), linear(1, 0, 0)],
        ] {
            assert!(VolumeMap::new(segments.clone()).is_err(), "{segments:?}");
        }
        let wrong = VolumeMap { ends: vec![9], ..VolumeMap::new(vec![linear(8, 0, 0)]).unwrap() };
        assert!(wrong.check(&[100]).is_err());
    }
}
