//! Turns a panic inside another crate's parser into an error.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Calls `f` and returns a panic in it as its message. This is for parsers of other crates that get
/// a stranger's bytes: they should not panic, and no disk is lost if one does. A panic may leave what `f` changes in an
/// inconsistent state, which is harmless for the caches that the readers keep.
pub fn quietly<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    // A panic is expected here for some damaged images, so its message goes into the error instead
    // of to stderr. Panics in other threads and places are reported as before.
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
