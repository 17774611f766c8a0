//! Limits on the work that an initrd can cause.

/// Bytes unpacked at once.
pub(super) const CHUNK: usize = 64 << 10;
/// Entries of all archives together.
pub(super) const ENTRIES: usize = 200_000;
/// Bytes of all their names and symlink targets.
pub(super) const NAMES: usize = 32 << 20;
/// Bytes of one file whose contents are kept, and of all of them.
pub(super) const KEPT_FILE: u64 = 1 << 20;
pub(super) const KEPT: u64 = 4 << 20;
/// Archives and compressed parts.
pub(super) const SEGMENTS: usize = 256;
