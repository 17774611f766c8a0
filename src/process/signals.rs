//! The signals that ask a process to end: SIGTERM, SIGINT and SIGHUP.

use crate::{Error, ErrorKind, Result};
use nix::sys::signal::{SigSet, Signal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::OnceLock;

/// The signals that ask a process to end.
pub fn ending_signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect()
}

/// Block the signals that ask a process to end, until the process waits for them. Must be called
/// before the process starts any thread: if one thread has them unblocked, they kill the process.
///
/// # Errors
/// Errors of the system call.
pub fn hold_ending_signals() -> Result<()> {
    ending_signals().thread_block().map_err(|e| Error::io("cannot block signals", e.into()))
}

/// Lets any number of threads wait for SIGINT, SIGTERM and SIGHUP.
#[derive(Debug)]
pub struct Stop {
    /// Stays readable once a signal has arrived.
    pipe: OwnedFd,
    signal: Arc<OnceLock<Signal>>,
}

impl Stop {
    /// Takes over the signals for the whole process; must be called before the process has other
    /// threads.
    ///
    /// # Errors
    /// Errors of the system calls.
    pub fn on_signals() -> Result<Self> {
        hold_ending_signals()?;
        let failed = |e: nix::Error| Error::io("cannot wait for signals", e.into());
        let (pipe, theirs) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(failed)?;
        let signal = Arc::new(OnceLock::new());
        let told = Arc::clone(&signal);
        let wait = move || {
            if let Ok(signal) = ending_signals().wait() {
                let _ = told.set(signal);
            }
            // Later signals stay blocked: the process is already ending.
            drop(theirs);
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(wait)
            .map_err(|e| Error::io("cannot start a thread", e))?;
        Ok(Self { pipe, signal })
    }

    /// A `Stop` that is never raised.
    #[cfg(test)]
    pub(crate) fn never() -> Self {
        let null = std::fs::File::open("/dev/null").expect("every system has it");
        Self { pipe: null.into(), signal: Arc::default() }
    }

    /// The signal that has arrived, if any.
    pub fn signal(&self) -> Option<Signal> {
        self.signal.get().copied()
    }

    /// The error that names the signal.
    pub fn error(&self) -> Error {
        let name = self.signal().map_or("a signal", Signal::as_str);
        Error::new(ErrorKind::Io, format!("ended by {name}"))
    }
}

impl AsFd for Stop {
    /// Stays readable or at end-of-file once a signal has arrived.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
