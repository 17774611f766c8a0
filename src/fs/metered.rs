//! Read access to an image with limits, for filesystem crates that have none.
//!
//! In a hostile image, trees may share branches, and directories may be as large as the image. The
//! cost of such a structure is the number of bytes that must be read for it, so that is what is
//! limited: each call has an allowance of bytes, and all calls together have another.

use super::btrfs_sums::Checksums;
use super::budget::{Budget, Cost};
use crate::bytes::ReadAt;
use crate::{Error, ErrorKind, Result};
use std::cell::{Cell, Ref, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes that one access to a path may read beyond what it returns: a directory of some 400,000
/// names.
pub(super) const PER_LOOK: u64 = 64 << 20;
/// Bytes that opening a filesystem may read: more than twice the largest journal that is replayed.
pub(super) const PER_OPEN: u64 = 512 << 20;
/// The largest tree node.
const NODE: usize = 64 << 10;

/// What was read, and which read failed and why.
pub(super) struct Meter {
    left: Cell<u64>,
    budget: Budget,
    over: Cell<bool>,
    error: RefCell<Option<io::Error>>,
    last: RefCell<Vec<u8>>,
}

impl Meter {
    pub(super) fn new(budget: Budget) -> Rc<Self> {
        Rc::new(Self {
            left: Cell::new(0),
            budget,
            over: Cell::new(false),
            error: RefCell::new(None),
            last: RefCell::new(Vec::new()),
        })
    }

    /// The budget that is charged in addition to the allowance of each call.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Starts a call that may read `bytes`.
    pub(super) fn begin(&self, bytes: u64) {
        self.left.set(bytes);
        self.over.set(false);
        *self.error.borrow_mut() = None;
    }

    /// The result of the last read, if it was no larger than a tree node. The crates do not expose
    /// some of what they read.
    pub(super) fn last_read(&self) -> Ref<'_, [u8]> {
        Ref::map(self.last.borrow(), Vec::as_slice)
    }

    /// Refunds `bytes` that were read because the caller requested them, not for a search.
    pub(super) fn refund(&self, bytes: u64) {
        self.budget.refund(Cost::SearchedBytes, bytes);
    }

    /// Converts what a crate `answered` about `what`, including a panic. `convert` maps the crate's
    /// errors, unless the cause is the image or a limit.
    pub(super) fn finish<T, E>(
        &self,
        answered: std::result::Result<std::result::Result<T, E>, String>,
        what: &str,
        convert: impl FnOnce(&str, &E) -> Error,
    ) -> Result<T> {
        match answered {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(self.verdict(what).unwrap_or_else(|| convert(what, &e))),
            Err(panic) => Err(Error::with_source(
                ErrorKind::Corrupt,
                format!("cannot read {what} in the guest"),
                panic,
            )),
        }
    }

    /// Why reading `what` failed, if the cause is the image or a limit.
    pub(super) fn verdict(&self, what: &str) -> Option<Error> {
        if self.over.get() {
            return Some(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "looking for {what} in the guest takes too much reading: its directories are \
                     too large, or its filesystem is damaged"
                ),
            ));
        }
        let error = self.error.borrow_mut().take()?;
        let message = format!("cannot read {what} in the guest: reading the image failed");
        Some(Error::with_source(ErrorKind::Io, message, error))
    }

    fn take(&self, bytes: u64) -> bool {
        let left = self.left.get().checked_sub(bytes);
        let left = left.filter(|_| self.budget.charge(Cost::SearchedBytes, bytes).is_ok());
        let Some(left) = left else {
            self.over.set(true);
            return false;
        };
        self.left.set(left);
        true
    }
}

/// A failed read; the [`Meter`] knows the cause.
#[derive(Debug)]
pub(super) struct Failed;

/// An image whose reads are counted by a [`Meter`].
#[derive(Clone)]
pub(super) struct Metered {
    pub(super) reader: Arc<dyn ReadAt>,
    pub(super) meter: Rc<Meter>,
    /// Range of the image that reads as zeros.
    pub(super) blank: Range<u64>,
    /// Rewrites checksums of a kind that the crate does not know.
    pub(super) checksums: Option<Checksums>,
}

impl Metered {
    fn fill(&self, start: u64, buf: &mut [u8]) -> std::result::Result<(), Failed> {
        let len = buf.len() as u64;
        if !self.meter.take(len) {
            return Err(Failed);
        }
        let inside = start.checked_add(len).is_some_and(|end| end <= self.reader.len());
        let read = match inside {
            true => self.reader.read_at(buf, start),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        if let Err(e) = read {
            *self.meter.error.borrow_mut() = Some(e);
            return Err(Failed);
        }
        let from = self.blank.start.clamp(start, start + len) - start;
        let to = self.blank.end.clamp(start, start + len) - start;
        // Both are at most `len`; for an empty range they are equal.
        buf[from as usize..to as usize].fill(0);
        if let Some(checksums) = &self.checksums {
            checksums.rewrite(buf);
        }
        if buf.len() <= NODE {
            let mut last = self.meter.last.borrow_mut();
            last.clear();
            last.extend_from_slice(buf);
        }
        Ok(())
    }
}

impl lamxfs::BlockRead for Metered {
    type Error = Failed;

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> std::result::Result<(), Failed> {
        self.fill(offset, buf)
    }
}

impl lambutter::BlockRead for Metered {
    type Error = Failed;

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> std::result::Result<(), Failed> {
        self.fill(offset, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metered(blank: Range<u64>) -> Metered {
        let image: Vec<u8> = (1..=100).collect();
        let (reader, meter) = (Arc::new(image), Meter::new(Budget::new()));
        Metered { reader, meter, blank, checksums: None }
    }

    #[test]
    fn an_allowance_ends() {
        let m = metered(0..0);
        m.meter.begin(10);
        let mut buf = [0; 6];
        assert!(m.fill(0, &mut buf).is_ok());
        assert!(m.meter.verdict("x").is_none());
        assert!(m.fill(0, &mut buf).is_err());
        assert_eq!(m.meter.verdict("x").map(|e| e.kind()), Some(ErrorKind::TooLarge));
        m.meter.begin(10);
        assert!(m.fill(94, &mut buf).is_ok());
        assert_eq!(buf, [95, 96, 97, 98, 99, 100]);
        assert_eq!(*m.meter.last_read(), buf);
        m.meter.begin(10);
        assert!(m.fill(95, &mut buf).is_err());
        assert_eq!(m.meter.verdict("x").map(|e| e.kind()), Some(ErrorKind::Io));
        m.meter.begin(10);
        assert!(m.fill(u64::MAX - 2, &mut buf).is_err());
    }

    #[test]
    fn blanks_are_zeros_and_nothing_else_is() {
        for (blank, want) in [
            (0..0, [11, 12, 13, 14]),
            (0..100, [0, 0, 0, 0]),
            (11..13, [11, 0, 0, 14]),
            (12..40, [11, 12, 0, 0]),
            (3..11, [0, 12, 13, 14]),
            (14..40, [11, 12, 13, 14]),
        ] {
            let m = metered(blank.clone());
            m.meter.begin(100);
            let mut buf = [0; 4];
            assert!(m.fill(10, &mut buf).is_ok());
            assert_eq!(buf, want, "{blank:?}");
        }
    }
}
