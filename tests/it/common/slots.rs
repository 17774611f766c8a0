//! How many tests may have guests running at the same time.
//!
//! The whole run has more test threads than processors, so that tests that wait for something leave
//! no core idle. A guest under TCG keeps a core busy, and too many of them would run into each
//! other's time limits: a test that boots one takes a slot first.

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

static TAKEN: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

thread_local! {
    /// The slot of this thread's test, while it has one.
    static HELD: RefCell<Weak<Slot>> = const { RefCell::new(Weak::new()) };
}

/// The right of one test to have guests running, given back when dropped.
pub struct Slot(());

impl Slot {
    /// Waits for a slot. A test that has one already, on the same thread, shares it: it may run
    /// several guests.
    pub fn take() -> Arc<Self> {
        if let Some(slot) = HELD.with_borrow(Weak::upgrade) {
            return slot;
        }
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken >= slots() {
            taken = FREED.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += 1;
        let slot = Arc::new(Self(()));
        HELD.set(Arc::downgrade(&slot));
        slot
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        FREED.notify_one();
    }
}

/// One guest for each processor; `SYNTHDISK_TEST_GUESTS` says otherwise.
fn slots() -> usize {
    let given = std::env::var("SYNTHDISK_TEST_GUESTS").ok().and_then(|n| n.parse().ok());
    given.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from))
}
