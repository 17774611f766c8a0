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

/// Block the signals that ask a process to end, until somebody waits for them. To be called before
/// the process starts any thread: one that has them unblocked would be killed by them, and the
/// process with it.
///
/// # Errors
/// That of the system call.
pub fn hold_ending_signals() -> Result<()> {
    ending_signals().thread_block().map_err(|e| Error::io("cannot block signals", e.into()))
}

/// SIGINT, SIGTERM and SIGHUP, as something that any number of threads can wait for.
#[derive(Debug)]
pub struct Stop {
    /// Readable for good once a signal has come.
    pipe: OwnedFd,
    signal: Arc<OnceLock<Signal>>,
}

impl Stop {
    /// Takes the signals over for the whole process; to be called before it has other threads.
    ///
    /// # Errors
    /// Those of the system calls.
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
            // Later ones stay blocked: the end is under way.
            drop(theirs);
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(wait)
            .map_err(|e| Error::io("cannot start a thread", e))?;
        Ok(Self { pipe, signal })
    }

    /// One that is never raised.
    #[cfg(test)]
    pub(crate) fn never() -> Self {
        let null = std::fs::File::open("/dev/null").expect("every system has it");
        Self { pipe: null.into(), signal: Arc::default() }
    }

    /// The signal that has come.
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
    /// Readable or at its end for good once a signal has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
