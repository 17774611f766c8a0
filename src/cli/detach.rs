//! Going to the background without losing an error on the way.
//!
//! The command that was typed starts itself again as the daemon and waits for its word: a byte
//! means "usable", the end of the pipe without one means "failed", and then the daemon's exit code
//! becomes the command's. The daemon's end of the pipe is its standard input.

use crate::{Error, Result};
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Set in the daemon.
const MARK: &str = "SYNTHDISK_DAEMON";

/// What [`start`] found out.
pub(super) enum Role {
    /// This is the daemon, or it was not asked to go to the background.
    Serve,
    /// The daemon runs, or has failed and said why; exit with this code.
    Done(i32),
}

/// Start the daemon, unless this is it.
///
/// # Errors
/// That of starting a process.
pub(super) fn start() -> Result<Role> {
    if std::env::var_os(MARK).is_some() {
        return Ok(Role::Serve);
    }
    let failed = |e| Error::io("cannot start the background process", e);
    let (ready, theirs) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| failed(e.into()))?;
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_else(|| "synthdisk".into());
    let mut daemon = Command::new(std::env::current_exe().map_err(failed)?)
        .arg0(name)
        .args(args)
        .env(MARK, "1")
        .stdin(Stdio::from(theirs))
        .spawn()
        .map_err(failed)?;
    if File::from(ready).read(&mut [0]).map_err(failed)? == 1 {
        return Ok(Role::Done(0));
    }
    let status = daemon.wait().map_err(failed)?;
    // Killed without a word of its own: say something.
    let code = status.code().unwrap_or_else(|| {
        eprintln!("synthdisk: the background process was ended ({status})");
        1
    });
    Ok(Role::Done(if code == 0 { 1 } else { code }))
}

/// In the daemon: tell the command that waits that all is well, and let go of its terminal.
///
/// # Errors
/// That of the system calls.
pub(super) fn finish() -> Result<()> {
    if std::env::var_os(MARK).is_none() {
        return Ok(());
    }
    let failed = |e: nix::Error| Error::io("cannot go to the background", e.into());
    setsid().map_err(failed)?;
    chdir("/").map_err(failed)?;
    nix::unistd::write(std::io::stdin(), b"+").map_err(failed)?;
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| Error::io("cannot open /dev/null", e))?;
    dup2_stdin(&null).map_err(failed)?;
    dup2_stdout(&null).map_err(failed)?;
    dup2_stderr(&null).map_err(failed)
}
