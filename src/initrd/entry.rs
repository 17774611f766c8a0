//! What an archive in an initrd holds at one path.

/// An entry of the archive.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum InitrdEntry {
    /// A directory.
    Dir,
    /// A regular file of this many bytes.
    File(u64),
    /// A symbolic link to this target.
    Symlink(String),
    /// A device, fifo or socket.
    Other,
}
