//! Unique names.

/// A number that is very unlikely to repeat, in any process or call.
pub(super) fn unique() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // `RandomState` has random keys.
    RandomState::new().build_hasher().finish()
}
