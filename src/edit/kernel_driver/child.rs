//! The process that mounts the partition where nobody sees it, and edits it there.

use super::root::Root;
use super::{Action, Job, Source};
use crate::{Error, ErrorKind, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::ffi::OsString;
use std::fs::File;
use std::io::Cursor;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Does the job on standard input, in a mount namespace of its own; this process must do nothing else.
///
/// # Errors
/// What went wrong, in a sentence; nothing stays mounted.
pub fn run_job() -> Result<()> {
    let job: Job = serde_json::from_reader(std::io::stdin().lock())
        .map_err(|e| Error::io("cannot read what is to be done", e.into()))?;
    let Job { partition, fs_type, options, tasks } = job;
    // Files of the host are opened while all of it can be seen.
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
    let failed = |e: nix::Error| Error::io("cannot make a mount namespace", e.into());
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&Path>, "/", None::<&Path>, private, None::<&Path>).map_err(failed)?;

    // Only this process and its children see what this directory has become.
    let dir = std::env::temp_dir();
    mount_loop(&partition, &dir, &fs_type, &options)?;
    check_backing(&partition, &dir)?;
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
                // A host's file without a source cannot be: it was opened above.
                (Action::Create { .. }, None) => {}
                (Action::MakeDir(access), _) => root.make_dir(&task.path, *access)?,
                (Action::Symlink { target }, _) => root.symlink(&task.path, target)?,
                (Action::Remove, _) => root.remove(&task.path)?,
            }
        }
        root.sync()
    };
    let edited = edit();
    // What the filesystem writes last, and that the loop device ends, is part of the job.
    let ended = umount2(&dir, MntFlags::empty())
        .map_err(|e| Error::io("cannot unmount the guest's filesystem", e.into()));
    edited.and(ended)
}

/// Mount `partition` on `dir` through a loop device that ends with the mount.
fn mount_loop(partition: &Path, dir: &Path, fs_type: &str, options: &str) -> Result<()> {
    let mut all = "loop,nodev,nosuid,noexec".to_owned();
    if !options.is_empty() {
        all = format!("{all},{options}");
    }
    // A service's PATH may leave out where it is.
    let places = ["/usr/bin/mount", "/bin/mount", "/sbin/mount"];
    let program = places.iter().map(PathBuf::from).find(|p| p.exists());
    let output = Command::new(program.unwrap_or_else(|| "mount".into()))
        .args(["-n", "-t", fs_type, "-o", &all])
        .args([partition, dir])
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

/// Make sure that what is mounted on `dir` is the filesystem in `partition`. Btrfs knows its devices
/// by UUID, and the host may have the image itself mounted, which must not be written to.
fn check_backing(partition: &Path, dir: &Path) -> Result<()> {
    let failed = |e| Error::io("cannot find out what was mounted", e);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(failed)?;
    let dir = dir.canonicalize().map_err(failed)?.display().to_string();
    let dir = dir.replace('\\', "\\134").replace(' ', "\\040");
    // The last of those mounted there is on top (proc_pid_mountinfo(5)).
    let line = mounts.lines().rev().find(|l| l.split(' ').nth(4).is_some_and(|at| dir == at));
    let source = line.and_then(|l| l.split_once(" - ")?.1.split(' ').nth(1));
    let device = source.and_then(|s| s.strip_prefix("/dev/")).unwrap_or_default();
    let backing = std::fs::read(format!("/sys/block/{device}/loop/backing_file"));
    let backing = backing.map(|b| PathBuf::from(OsString::from_vec(b.trim_ascii_end().to_vec())));
    if backing.is_ok_and(|path| path == partition) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Busy,
        "the host has a filesystem of the same UUID mounted, and the kernel takes it for this one",
    ))
}
