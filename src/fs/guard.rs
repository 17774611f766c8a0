//! A panic inside a parser of another crate becomes an error.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Calls `f`; a panic in it is returned as its message. A panic may leave what `f` changes half
/// done, which is harmless for the caches that the readers keep.
pub(crate) fn quietly<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    // A panic is expected here for some broken images, so its message goes into the error instead
    // of to stderr. Panics of other threads and places are reported as before.
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                PANIC.with_borrow_mut(|p| *p = info.to_string());
            } else {
                previous(info);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    QUIET.set(false);
    result.map_err(|_| PANIC.with_borrow_mut(std::mem::take))
}
