//! Cleaning up after a process that is killed.
//!
//! A process that is killed cannot remove its mounts and temporary files. The sweeper can: it is a
//! separate process whose standard input is a pipe that only its parent holds. When the pipe is
//! closed, by a normal exit or by the kernel, the sweeper removes what it was started for.

use super::child::ourselves;
use super::mounts::MountEntry;
use super::signals::hold_ending_signals;
use super::unmount::{Unmount, unmount};
use crate::{Error, Result};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// What a parent writes that has cleaned up itself.
const DONE: &[u8] = b"done";

/// The parent's handle of a sweeper. Dropping it removes what the sweeper was started for.
#[derive(Debug)]
pub struct Sweeper {
    child: Child,
    leftover: Leftover,
}

/// What to remove. It need not exist yet, and may never exist.
#[derive(Debug)]
enum Leftover {
    /// A mount and its directory.
    Mount(PathBuf),
    /// A mount on a directory of the user's.
    Attached(MountEntry),
    /// A file or directory, by a path through the open directory.
    Temporary(PathBuf, Arc<File>),
}

impl Sweeper {
    /// For a mount and its directory.
    ///
    /// # Errors
    /// Errors of starting a process.
    pub fn of_mount(dir: &Path) -> Result<Self> {
        let mut command = ourselves()?;
        command.args(["internal", "sweep", "--mount"]).arg(dir);
        Self::start(command, Leftover::Mount(dir.to_path_buf()))
    }

    /// For a mount that is not made in a directory of ours: the directory stays.
    ///
    /// # Errors
    /// Errors of starting a process.
    pub fn of_attached(entry: &MountEntry) -> Result<Self> {
        let mut command = ourselves()?;
        command.args(["internal", "sweep", "--mount-id", &entry.id.to_string(), "--target"]);
        command.arg(&entry.target);
        Self::start(command, Leftover::Attached(entry.clone()))
    }

    /// For the file or directory `name` in `dir`.
    ///
    /// # Errors
    /// Errors of starting a process.
    pub fn of_temporary(dir: &Arc<File>, name: &OsStr) -> Result<Self> {
        let by_descriptor = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        let mut command = ourselves()?;
        // The sweeper works in that directory, even if the directory is renamed.
        command.current_dir(&by_descriptor);
        command.args(["internal", "sweep", "--temporary"]).arg(Path::new(".").join(name));
        Self::start(command, Leftover::Temporary(by_descriptor.join(name), Arc::clone(dir)))
    }

    fn start(mut command: Command, leftover: Leftover) -> Result<Self> {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A program that reads the parent's output must not have to wait for this process.
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| Error::io("cannot start the process that cleans up", e))?;
        Ok(Self { child, leftover })
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        let mut pipe = self.child.stdin.take();
        if let Leftover::Attached(entry) = &self.leftover {
            // The process must not do it later: by then, another mount may have the same ID.
            let _ = unmount(entry, Unmount::Lazy);
            let _ = pipe.as_mut().map(|pipe| pipe.write_all(DONE)); // it may have been killed
        }
        drop(pipe);
        let _ = self.child.wait();
        // The sweeper itself may have been killed.
        match &self.leftover {
            Leftover::Mount(dir) => remove_mount(dir),
            Leftover::Attached(_) => {}
            Leftover::Temporary(path, _open) => remove_temporary(path),
        }
    }
}

/// What a sweeper process is told to remove.
#[derive(Debug, Default)]
pub struct Swept {
    /// A mount and its directory.
    pub mount: Option<PathBuf>,
    /// A mount, by its ID and its directory.
    pub attached: Option<(u64, PathBuf)>,
    /// A file or directory.
    pub temporary: Option<PathBuf>,
}

/// The sweeper process: wait for end-of-file on standard input, then clean up.
///
/// # Errors
/// Errors of blocking signals.
pub fn sweep(swept: &Swept) -> Result<()> {
    // Signals from a terminal must not reach this process.
    let _ = nix::unistd::setsid();
    hold_ending_signals()?;
    // Returns at end-of-file, or if it cannot be read.
    let mut said = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut said);
    if said == DONE {
        return Ok(());
    }
    swept.mount.iter().for_each(|dir| remove_mount(dir));
    if let Some((id, target)) = &swept.attached {
        if let Some(entry) = MountEntry::at(target).filter(|entry| entry.id == *id) {
            let _ = unmount(&entry, Unmount::Lazy); // it may have just ended
        }
    }
    swept.temporary.iter().for_each(|path| remove_temporary(path));
    Ok(())
}

fn remove_mount(dir: &Path) {
    if let Some(entry) = MountEntry::at(dir) {
        let _ = unmount(&entry, Unmount::Lazy);
    }
    let _ = std::fs::remove_dir(dir);
}

fn remove_temporary(path: &Path) {
    // A child of the killed process may still create files in it until that child ends.
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
