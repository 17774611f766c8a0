//! Cleaning up after a process that is killed.
//!
//! A process that is killed can remove neither a mount nor a temporary file. The sweeper can: it is a
//! process of its own, and its standard input is a pipe that only its parent holds. When the pipe
//! breaks, or is closed at an orderly end, the sweeper removes what it was told of.

use super::child::ourselves;
use super::mounts::MountEntry;
use super::signals::hold_ending_signals;
use super::unmount::{Unmount, unmount};
use crate::{Error, Result};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// The parent's end of the sweeper. What it was told of is gone once this was dropped.
#[derive(Debug)]
pub struct Sweeper {
    child: Child,
    mount: Option<PathBuf>,
    temporary: Option<PathBuf>,
}

impl Sweeper {
    /// Start one that removes a mount and its directory, and a temporary file or directory; none
    /// need exist yet, or ever.
    ///
    /// # Errors
    /// That of starting a process.
    pub fn start(mount: Option<&Path>, temporary: Option<&Path>) -> Result<Self> {
        let mut command = ourselves()?;
        command.args(["internal", "sweep"]);
        if let Some(dir) = mount {
            command.arg("--mount").arg(dir);
        }
        if let Some(path) = temporary {
            command.arg("--temporary").arg(path);
        }
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Whoever reads the parent's messages must not have to wait for this process.
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| Error::io("cannot start the process that cleans up", e))?;
        Ok(Self {
            child,
            mount: mount.map(Path::to_path_buf),
            temporary: temporary.map(Path::to_path_buf),
        })
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        // It may have been killed itself.
        remove(self.mount.as_deref(), self.temporary.as_deref());
    }
}

/// The sweeper's own process: wait for the end of standard input, then clean up.
///
/// # Errors
/// That of blocking signals.
pub fn sweep(mount: Option<&Path>, temporary: Option<&Path>) -> Result<()> {
    // Signals that a terminal sends are not for this process.
    let _ = nix::unistd::setsid();
    hold_ending_signals()?;
    // Nothing is ever written to it: this returns at its end, or when it cannot be read at all.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    remove(mount, temporary);
    Ok(())
}

fn remove(mount: Option<&Path>, temporary: Option<&Path>) {
    if let Some(dir) = mount {
        if let Some(entry) = MountEntry::at(dir) {
            let _ = unmount(&entry, Unmount::Lazy);
        }
        let _ = std::fs::remove_dir(dir);
    }
    let Some(path) = temporary else { return };
    // A child of the killed process may still make a file in it while it is ended.
    for _ in 0..20 {
        let removed = match path.symlink_metadata() {
            Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
            Ok(_) => std::fs::remove_file(path),
            Err(_) => return,
        };
        if removed.is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
