//! Names that are used in QEMU.

/// The names of a disk's nodes and jobs in QEMU, where nothing else has them.
#[derive(Clone, Debug)]
pub(super) struct Names(String);

/// What all names start with.
pub(super) const PREFIX: &str = "synthdisk-";

/// The object that exists while the guest is paused by us.
pub(super) const PAUSED: &str = "synthdisk-paused";

impl Names {
    /// For disk number `index`. `unique` tells them from those of an earlier call. QEMU's limit is 31
    /// bytes.
    pub(super) fn new(unique: u32, index: usize) -> Self {
        Self(format!("{PREFIX}{unique:08x}-{index}"))
    }

    /// The node for the disk in the new file.
    pub(super) fn node(&self) -> &str {
        &self.0
    }

    /// The node for the new file.
    pub(super) fn protocol(&self) -> String {
        format!("{}-file", self.0)
    }

    /// The job that copies the disk.
    pub(super) fn mirror(&self) -> &str {
        &self.0
    }

    /// The job that makes the new file an image.
    pub(super) fn creation(&self) -> String {
        format!("{}-new", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_enough() {
        let names = Names::new(u32::MAX, 255);
        assert!(names.protocol().len() <= 31, "{names:?}");
    }
}
