//! The partitions that a plan is made from: first read from their images, later through the disk.

use super::planned_disk::PartitionReader;
use crate::bytes::ReadAt;
use crate::image::Image;
use parking_lot::Mutex;
use std::io;
use std::mem::take;
use std::ops::Range;
use std::sync::Arc;

/// A partition, as the examination of the guest reads it: from its image until the disk exists, and
/// then from the disk, which may have been written to. So a kernel that was found in the image is
/// read as the disk shows it.
#[derive(Debug)]
pub(super) struct PlannedFrom {
    image: Arc<dyn Image>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Read from the image; these ranges so far.
    Image(Vec<Range<u64>>),
    Disk(PartitionReader),
}

impl PlannedFrom {
    pub(super) fn new(image: &Arc<dyn Image>) -> Self {
        Self { image: Arc::clone(image), state: Mutex::new(State::Image(Vec::new())) }
    }

    /// From now on, reads `partition`. What was read before is noted there.
    pub(super) fn attach(&self, partition: PartitionReader) {
        let mut state = self.state.lock();
        if let State::Image(ranges) = &mut *state {
            for range in take(ranges) {
                partition.note(range.start, range.end - range.start);
            }
        }
        *state = State::Disk(partition);
    }
}

impl ReadAt for PlannedFrom {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let partition = match &mut *self.state.lock() {
            State::Disk(partition) => Some(partition.clone()),
            State::Image(ranges) => {
                let end = offset.saturating_add(buf.len() as u64);
                match ranges.last_mut() {
                    Some(last) if last.end == offset => last.end = end,
                    _ => ranges.push(offset..end),
                }
                None
            }
        };
        match partition {
            Some(partition) => partition.read_at(buf, offset),
            None => self.image.read_at(buf, offset),
        }
    }

    fn len(&self) -> u64 {
        self.image.len()
    }
}
