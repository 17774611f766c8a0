//! The QEMU of one guest: its process, its console, its complaints.

use crate::process::{self, bound_to_us};
use crate::text::in_a_line;
use crate::{Error, ErrorKind, Result};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long QEMU may take to end normally.
const PATIENCE: Duration = Duration::from_secs(5);

/// What QEMU says before it ends because of SIGINT, SIGHUP or SIGTERM (system/runstate.c).
const ENDED_BY_SIGNAL: &str = "terminating on signal";

/// A running QEMU, ended when dropped.
pub(super) struct Qemu {
    child: Child,
    /// Kept open: QEMU's console ends at end-of-file on its input.
    pub(super) input: Option<ChildStdin>,
    pub(super) console: Option<ChildStdout>,
    pub(super) errors: Option<ChildStderr>,
    /// The errors that QEMU printed.
    complaints: Complaints,
    pub(super) started: Instant,
    watched: bool,
}

impl Qemu {
    /// Starts `program`. `watched`: its console is on pipes of ours, not on the terminal.
    pub(super) fn start(program: &Path, args: &[OsString], watched: bool) -> Result<Self> {
        let stdio = || if watched { Stdio::piped() } else { Stdio::inherit() };
        let started = Instant::now();
        let mut command = bound_to_us(program.as_os_str(), Signal::SIGKILL)?;
        let mut child = process::clean_environment(&mut command)
            .args(args)
            .stdin(stdio())
            .stdout(stdio())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Error::io(format!("cannot start {}", program.display()), e))?;
        Ok(Self {
            input: child.stdin.take(),
            console: child.stdout.take(),
            errors: child.stderr.take(),
            child,
            complaints: Complaints::default(),
            started,
            watched,
        })
    }

    /// Reads the available standard error; at end-of-file, returns QEMU's exit status.
    pub(super) fn read_errors(&mut self) -> Option<Option<ExitStatus>> {
        let mut buffer = [0; 4096];
        let n = match &mut self.errors {
            Some(errors) => errors.read(&mut buffer).unwrap_or(0),
            None => 0,
        };
        self.complaints.feed(&buffer[..n]);
        if n > 0 {
            return None;
        }
        self.errors = None;
        Some(self.child.wait().ok())
    }

    /// The error for a QEMU that ended with `status`, unless it succeeded. One that is watched has not if
    /// somebody ended it by a signal: it exits with 0 then, but nobody knows what its guest would have done.
    pub(super) fn failure(&self, status: Option<ExitStatus>) -> Option<Error> {
        let status = status?;
        if status.success() {
            let signal = self.complaints.kept.iter().find(|c| c.starts_with(ENDED_BY_SIGNAL));
            let signal = signal.filter(|_| self.watched);
            return signal.map(|why| Error::new(ErrorKind::Host, format!("QEMU was ended: {why}")));
        }
        let what = match (self.complaints.last(), status.signal()) {
            (_, Some(signal)) => {
                let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
                format!("QEMU was ended by {name}")
            }
            (Some(last), None) => format!("QEMU failed: {last}"),
            (None, None) => format!("QEMU ended with {status}"),
        };
        Some(Error::new(ErrorKind::Host, what))
    }

    /// Ends QEMU if it is still running.
    pub(super) fn end(&mut self) {
        // Closing the pipes unblocks a QEMU that is writing to them.
        self.console = None;
        self.errors = None;
        if matches!(self.child.try_wait(), Ok(None)) {
            process::end(&mut self.child, PATIENCE);
        }
        self.input = None;
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.end();
    }
}

/// QEMU's standard error: its own errors are kept for one sentence at the end; everything else (the
/// output of `-d`, or a warning) is passed on.
#[derive(Default)]
struct Complaints {
    line: Vec<u8>,
    kept: Vec<String>,
}

impl Complaints {
    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
                self.line.clear();
                self.take(line);
            } else if self.line.len() < 4096 {
                self.line.push(byte);
            }
        }
        if bytes.is_empty() && !self.line.is_empty() {
            self.feed(b"\n");
        }
    }

    fn take(&mut self, line: String) {
        let own = line
            .split_once(": ")
            .filter(|(program, _)| program.starts_with("qemu") || *program == "synthdisk")
            .map(|(_, rest)| rest)
            .filter(|rest| !rest.starts_with("warning:") && !rest.starts_with("info:"));
        match own {
            // Limited, because a noisy QEMU could otherwise use up all memory.
            Some(rest) if self.kept.len() < 100 => self.kept.push(rest.to_owned()),
            Some(_) => {}
            None => eprintln!("{}", in_a_line(&line)),
        }
    }

    /// The last error; of an error with several lines, the last line.
    fn last(&self) -> Option<&str> {
        self.kept.last().map(String::as_str)
    }
}
