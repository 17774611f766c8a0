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
use std::os::unix::fs::MetadataExt;
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
    /// A name that the parent removes itself.
    Name,
}

/// A name, and the device and inode that it had when it was made: what has that name later may be
/// another file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamedInode {
    /// The name, absolute.
    pub path: PathBuf,
    /// The device.
    pub device: u64,
    /// The inode.
    pub inode: u64,
}

impl NamedInode {
    /// What is called `path` now; a symlink is not followed.
    ///
    /// # Errors
    /// Errors of lstat(2).
    pub fn of(path: PathBuf) -> std::io::Result<Self> {
        let meta = path.symlink_metadata()?;
        Ok(Self { path, device: meta.dev(), inode: meta.ino() })
    }

    /// Remove the name if it is still that of the same file.
    pub fn remove(&self) {
        if Self::of(self.path.clone()).is_ok_and(|found| found == *self) {
            let _ = std::fs::remove_file(&self.path); // somebody may have removed it just now
        }
    }
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

    /// For a name. It is removed only if this process is killed: otherwise, it removes the name
    /// itself.
    ///
    /// # Errors
    /// Errors of starting a process.
    pub fn of_name(name: &NamedInode) -> Result<Self> {
        let mut command = ourselves()?;
        command.args(["internal", "sweep", "--device", &name.device.to_string(), "--inode"]);
        command.arg(name.inode.to_string()).arg("--name").arg(&name.path);
        Self::start(command, Leftover::Name)
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
        }
        if matches!(self.leftover, Leftover::Attached(_) | Leftover::Name) {
            let _ = pipe.as_mut().map(|pipe| pipe.write_all(DONE)); // it may have been killed
        }
        drop(pipe);
        let _ = self.child.wait();
        // The sweeper itself may have been killed.
        match &self.leftover {
            Leftover::Mount(dir) => remove_mount(dir),
            Leftover::Attached(_) | Leftover::Name => {}
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
    /// A name.
    pub name: Option<NamedInode>,
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
    swept.name.iter().for_each(NamedInode::remove);
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
