//! The mount itself, without its contents: what the process that keeps a mount holds.

use super::mount::{Detached, MountPoint, Mounted, mount_attached};
use super::options::MountOptions;
use crate::Result;
use crate::process::{MountEntry, Unmount, unmount};
use std::os::fd::OwnedFd;

/// A mount that is made but not yet announced.
#[derive(Debug)]
pub enum KernelMount {
    /// No path leads to it. It ends when this value is dropped.
    Detached(Detached),
    /// It is visible already, because the kernel or the user's rights leave no other way. Requests
    /// wait until they are answered.
    Attached(MountEntry),
}

impl KernelMount {
    /// Make a mount for `target`; `mount` lists `source` as its source. The second value is the
    /// device on which requests arrive.
    ///
    /// # Errors
    /// When FUSE is not available; errors of the kernel or of fusermount3.
    pub fn new(
        target: &MountPoint,
        source: &str,
        options: &MountOptions,
    ) -> Result<(Self, OwnedFd)> {
        Ok(match Detached::new(source, options)? {
            Some(Mounted { device, mount }) => (Self::Detached(mount), device),
            None => {
                let Mounted { device, mount } = mount_attached(source, target, options)?;
                (Self::Attached(mount), device)
            }
        })
    }

    /// Make it visible on `target`, for which it was made. Requests must be answered by now.
    ///
    /// # Errors
    /// Errors of the kernel.
    pub fn announce(self, target: &MountPoint) -> Result<MountEntry> {
        let entry = match self {
            Self::Detached(mount) => mount.attach(target)?,
            Self::Attached(entry) => entry,
        };
        raise_readahead(&entry);
        Ok(entry)
    }

    /// Remove it.
    ///
    /// # Errors
    /// Errors of unmounting.
    pub fn discard(self) -> Result<()> {
        match self {
            Self::Detached(_) => Ok(()),
            Self::Attached(entry) => unmount(&entry, Unmount::Lazy),
        }
    }
}

/// Let the kernel read ahead in requests of the maximum size; only root can set this.
fn raise_readahead(entry: &MountEntry) {
    let _ = std::fs::write(format!("/sys/class/bdi/{}/read_ahead_kb", entry.device), "1024");
}
