//! Names that nothing else has.

/// A number that two processes, or two calls, hardly share.
pub(super) fn unique() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // Its keys are random.
    RandomState::new().build_hasher().finish()
}
