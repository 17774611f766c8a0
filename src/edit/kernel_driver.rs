//! Storing edits in XFS and Btrfs with the kernel's own driver, as root.
//!
//! The partition is mounted through a loop device, which is released with the mount, in a separate
//! mount namespace: no other process sees it, and it disappears with the process that made it,
//! however that ends. That process is a second instance of this program, because the first one has
//! threads and serves the partition as one of its files. The kernel replays the journal first.
//!
//! The guest is untrusted. No path is followed through a symlink or out of the mount, and nothing
//! in it is treated as a device or executed. One risk remains: the kernel's driver has to parse a
//! possibly broken filesystem.
//!
//! Rewritten files keep their inode, owner, mode, access and modification times, links and extended
//! attributes. The driver itself writes the current time to change times and its journal, so the
//! same edits give the same files, but not the same bytes of the filesystem.

mod child;
mod loop_device;
mod root;

pub use child::run_job;

use super::editor::Editor;
use super::{Change, Edit, FileAccess, FileContent};
use crate::fs::KernelMount;
use crate::process::ourselves;
use crate::text::in_a_line;
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Arguments that start [`run_job`].
const SUBCOMMAND: [&str; 2] = ["internal", "edit-mounted"];

/// What the second process does; sent over standard input.
#[derive(Debug, Deserialize, Serialize)]
struct Job {
    /// The partition's file; `/proc/self/fd/N` for one that the process inherits.
    partition: PathBuf,
    /// As in [`KernelMount`].
    fs_type: String,
    options: String,
    tasks: Vec<Task>,
}

/// An [`Edit`] without the fields for people.
#[derive(Debug, Deserialize, Serialize)]
struct Task {
    path: String,
    action: Action,
}

/// A [`Change`].
#[derive(Debug, Deserialize, Serialize)]
enum Action {
    Rewrite { old: Vec<u8>, new: Vec<u8> },
    Create { content: Source, access: Rights },
    MakeDir(Rights),
    Symlink { target: String },
    Remove,
}

/// A [`FileContent`].
#[derive(Debug, Deserialize, Serialize)]
enum Source {
    Bytes(Vec<u8>),
    HostFile(PathBuf),
}

/// An [`FileAccess`].
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Rights {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// The editor for filesystems that the kernel mounts in the given way.
pub(super) struct KernelDriver(pub(super) KernelMount);

impl Editor for KernelDriver {
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless this process runs as root; otherwise [`ErrorKind::Io`]
    /// with the cause: the kernel has no such driver or refuses the filesystem, or a file differs
    /// from what `edits` were made for. Edits before the failed one stay.
    fn apply(&self, edits: &[Edit], partition: &Path) -> Result<()> {
        let mount = &self.0;
        let fs_type = mount.fs_type;
        if !nix::unistd::geteuid().is_root() {
            let paths: Vec<&str> = edits.iter().map(|e| e.path.as_str()).collect();
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "only root can edit an {fs_type} filesystem, with the kernel's driver; left as they \
                 are: {}",
                    paths.join(", ")
                ),
            ));
        }
        let failed = |e| Error::io(format!("cannot edit the guest's {fs_type} filesystem"), e);
        let job = Job {
            partition: partition.to_path_buf(),
            fs_type: fs_type.to_owned(),
            options: mount.options.clone(),
            tasks: edits.iter().map(task).collect(),
        };
        let mut child = ourselves()?
            .args(SUBCOMMAND)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let sent = match child.stdin.take() {
            Some(stdin) => serde_json::to_writer(stdin, &job).map_err(std::io::Error::from),
            None => Ok(()),
        };
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return sent.map_err(failed);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = said.trim().rsplit('\n').next().unwrap_or_default();
        let reason = reason.strip_prefix("synthdisk: ").unwrap_or(reason);
        let reason = if reason.is_empty() { output.status.to_string() } else { reason.to_owned() };
        Err(failed(std::io::Error::other(in_a_line(&reason).into_owned())))
    }

    fn check_room(&self, _: &[Edit], _: &Path) -> Result<()> {
        // The kernel itself reports a lack of space.
        Ok(())
    }

    fn set_uuid(&self, _: &Path, _: &str) -> Result<()> {
        let what = format!(
            "cannot change the UUID of an {} filesystem; leave out --root-uuid",
            self.0.fs_type
        );
        Err(Error::new(ErrorKind::Unsupported, what))
    }
}

fn task(edit: &Edit) -> Task {
    let rights = |a: &FileAccess| Rights { mode: a.mode, uid: a.uid, gid: a.gid };
    let action = match &edit.change {
        Change::Rewrite { old, new } => Action::Rewrite { old: old.clone(), new: new.clone() },
        Change::Create { content, access } => Action::Create {
            content: match content {
                FileContent::Bytes(bytes) => Source::Bytes(bytes.clone()),
                FileContent::HostFile(path) => Source::HostFile(path.clone()),
            },
            access: rights(access),
        },
        Change::MakeDir(access) => Action::MakeDir(rights(access)),
        Change::Symlink { target } => Action::Symlink { target: target.clone() },
        Change::Remove => Action::Remove,
    };
    Task { path: edit.path.clone(), action }
}
