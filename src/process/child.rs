//! Child processes that do not outlive their parent.

use super::inherit::Inherited;
use crate::{Error, ErrorKind, Result};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, getpid, getppid};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// A command that starts this program again: the same file, even if it was replaced by another
/// version since this process started.
///
/// # Errors
/// When /proc does not provide the program's file.
pub fn ourselves() -> Result<Command> {
    const RUNNING: &str = "/proc/self/exe";
    let failed = |e| Error::io("cannot find this program's own file", e);
    let named = std::env::current_exe().map_err(failed)?;
    let running = std::fs::metadata(RUNNING).map_err(failed)?;
    let is_running = |m: &std::fs::Metadata| (m.dev(), m.ino()) == (running.dev(), running.ino());
    // Processes are listed by the name under which they were started, so the file's own is better.
    let program = match std::fs::metadata(&named) {
        Ok(found) if is_running(&found) => named,
        _ => RUNNING.into(),
    };
    let mut command = Command::new(program);
    command.arg0("synthdisk");
    Ok(command)
}

/// A command for `program` that receives `signal` when the thread that started it ends. It runs
/// `synthdisk internal exec`, because safe code cannot run between fork and exec.
///
/// Unless `signal` is SIGKILL, the child inherits the caller's signal mask: a signal that arrives
/// early stays pending until the child waits for it, and does not kill the child.
///
/// # Errors
/// As [`ourselves`].
pub fn bound_to_us(program: &OsStr, signal: Signal) -> Result<Command> {
    Ok(bound_by(ourselves()?, program, signal))
}

/// As [`bound_to_us`], with this program's file opened by [`own_file`]: for a child with another user ID, which
/// may not look up its path.
pub fn bound_to_us_as_other(own: &Inherited, program: &OsStr, signal: Signal) -> Command {
    let mut command = Command::new(own.path());
    command.arg0("synthdisk");
    bound_by(command, program, signal)
}

/// The file of this program, for [`bound_to_us_as_other`].
///
/// # Errors
/// When /proc does not provide it.
pub fn own_file() -> Result<Inherited> {
    let failed = |e| Error::io("cannot open this program's own file", e);
    Inherited::new(&File::open("/proc/self/exe").map_err(failed)?).map_err(failed)
}

fn bound_by(mut command: Command, program: &OsStr, signal: Signal) -> Command {
    command.args(["internal", "exec", "--signal", signal.as_str()]);
    if signal != Signal::SIGKILL {
        command.arg("--keep-mask");
    }
    command.args(["--parent", &getpid().to_string(), "--"]).arg(program);
    command
}

/// The second half of [`bound_to_us`]: execute `words`, with `signal` sent when `parent` ends. All
/// signals are unblocked, unless `keep_mask`.
///
/// # Errors
/// Errors of the system calls; [`ErrorKind::NotFound`] when `parent` has already ended.
pub fn exec(signal: Signal, parent: i32, keep_mask: bool, words: &[OsString]) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(signal)
        .map_err(|e| Error::io("cannot bind the process to its parent", e.into()))?;
    if getppid() != Pid::from_raw(parent) {
        return Err(Error::new(ErrorKind::NotFound, "the parent process has ended"));
    }
    if !keep_mask {
        // The parent blocks the signals that it waits for, and children inherit the mask.
        SigSet::empty()
            .thread_set_mask()
            .map_err(|e| Error::io("cannot unblock signals", e.into()))?;
    }
    let Some((program, args)) = words.split_first() else { return Ok(()) };
    let e = Command::new(program).args(args).exec();
    Err(Error::io(format!("cannot start {}", program.to_string_lossy()), e))
}

/// Send `signal` to a child that has not been waited for.
pub fn send(child: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(pid), signal); // it may have just ended
    }
}

/// Send SIGTERM to a child, and SIGKILL if it has not ended within `patience`.
pub fn end(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    send(child, Signal::SIGTERM);
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(1);
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(pause),
            other => return other.ok().flatten(),
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    let _ = child.kill();
    child.wait().ok()
}
