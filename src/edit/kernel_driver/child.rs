//! The process that mounts the partition in a private namespace, and edits it there.

use super::loop_device::LoopDevice;
use super::root::Root;
use super::{Action, Job, Source};
use crate::process::{MountEntry, enter_private_mounts, find_tool};
use crate::{Error, ErrorKind, Result};
use nix::mount::{MntFlags, umount2};
use std::fs::File;
use std::io::Cursor;
use std::path::Path;
use std::process::{Command, Stdio};

/// Does the job read from standard input, in a separate mount namespace; this process must do
/// nothing else.
///
/// # Errors
/// Says what went wrong, in one sentence; nothing stays mounted.
pub fn run_job() -> Result<()> {
    let job: Job = serde_json::from_reader(std::io::stdin().lock())
        .map_err(|e| Error::io("cannot read what is to be done", e.into()))?;
    let Job { partition, fs_type, options, tasks } = job;
    // The host's files are opened before the private mount can hide them.
    let mut sources = Vec::new();
    for task in &tasks {
        let file = match &task.action {
            Action::Create { content: Source::HostFile(path), .. } => {
                let failed = |e| Error::io(format!("cannot read {}", path.display()), e);
                Some(File::open(path).map_err(failed)?)
            }
            _ => None,
        };
        sources.push(file);
    }
    let partition = File::options().read(true).write(true).open(&partition);
    let partition = partition.map_err(|e| Error::io("cannot open the guest's partition", e))?;
    enter_private_mounts()?;
    // Only this process and its children see what is mounted on this directory.
    let dir = std::env::temp_dir();
    let device = LoopDevice::attach(&partition)
        .map_err(|e| Error::io("cannot attach the guest's partition to a loop device", e))?;
    mount_device(&device.path, &dir, &fs_type, &options)?;
    check_source(&device.path, &dir)?;
    drop(device);
    let edit = || -> Result<()> {
        let root = Root::open(&dir)?;
        for (task, source) in tasks.iter().zip(sources) {
            match (&task.action, source) {
                (Action::Rewrite { old, new }, _) => root.rewrite(&task.path, old, new)?,
                (Action::Create { access, .. }, Some(mut file)) => {
                    root.create(&task.path, &mut file, *access)?;
                }
                (Action::Create { content: Source::Bytes(bytes), access }, _) => {
                    root.create(&task.path, &mut Cursor::new(bytes), *access)?;
                }
                // Cannot happen: every host file was opened above.
                (Action::Create { .. }, None) => {}
                (Action::MakeDir(access), _) => root.make_dir(&task.path, *access)?,
                (Action::Symlink { target }, _) => root.symlink(&task.path, target)?,
                (Action::Remove, _) => root.remove(&task.path)?,
            }
        }
        root.sync()
    };
    let edited = edit();
    // The filesystem's last writes and the release of the loop device are part of the job.
    let ended = umount2(&dir, MntFlags::empty())
        .map_err(|e| Error::io("cannot unmount the guest's filesystem", e.into()));
    edited.and(ended)
}

/// Mount `device` on `dir`.
fn mount_device(device: &Path, dir: &Path, fs_type: &str, options: &str) -> Result<()> {
    let mut all = "nodev,nosuid,noexec".to_owned();
    if !options.is_empty() {
        all = format!("{all},{options}");
    }
    // A service's PATH may leave out its directory.
    let output = Command::new(find_tool("mount", &["/usr/bin", "/bin", "/sbin"]))
        .args(["-n", "-t", fs_type, "-o", &all])
        .args([device, dir])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::io("cannot run mount", e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().next().unwrap_or_default().trim();
    let line = line.strip_prefix("mount: ").unwrap_or(line);
    let line = line.strip_prefix(&format!("{}: ", dir.display())).unwrap_or(line);
    let line = line.trim_end_matches('.');
    Err(Error::io("this host's kernel does not mount it", std::io::Error::other(line.to_owned())))
}

/// Make sure that the filesystem mounted on `dir` is the one on `device`. Btrfs identifies its
/// devices by UUID, and the host may have mounted the image itself, which must not be written to.
fn check_source(device: &Path, dir: &Path) -> Result<()> {
    let failed = |e| Error::io("cannot find out what was mounted", e);
    let mounted = MountEntry::at(&dir.canonicalize().map_err(failed)?);
    if mounted.is_some_and(|m| Path::new(&m.source) == device) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Busy,
        "the host has a filesystem of the same UUID mounted, and the kernel takes it for this one",
    ))
}
