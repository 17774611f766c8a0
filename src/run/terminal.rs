//! Restoring a terminal: QEMU makes it raw, and a QEMU that is killed leaves it raw.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// A terminal and its state when this value was created.
pub(super) struct Terminal {
    device: OwnedFd,
    state: Termios,
}

impl Terminal {
    /// Standard input, if it is a terminal.
    pub(super) fn of_stdin() -> Option<Self> {
        let device = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
        let state = tcgetattr(&device).ok()?;
        Some(Self { device, state })
    }

    /// The controlling terminal of the process.
    pub(super) fn controlling() -> Option<Self> {
        let device: OwnedFd = File::options().read(true).write(true).open("/dev/tty").ok()?.into();
        let state = tcgetattr(&device).ok()?;
        Some(Self { device, state })
    }

    /// Restores the state. In a background process of the terminal's own session this would stop
    /// the process, so it is only for foreground processes and other sessions.
    pub(super) fn restore(&self) {
        // If the terminal is gone, there is nothing to restore.
        let _ = tcsetattr(&self.device, SetArg::TCSADRAIN, &self.state);
        if let Ok(flags) = fcntl(&self.device, FcntlArg::F_GETFL) {
            let flags = OFlag::from_bits_truncate(flags) & !OFlag::O_NONBLOCK;
            let _ = fcntl(&self.device, FcntlArg::F_SETFL(flags));
        }
    }
}
