//! What happens to a watched guest, as one stream of events.

use super::emulator::Qemu;
use super::private::PrivateMount;
use crate::process::{Stop, poll_until};
use crate::{Error, ErrorKind, Result};
use nix::poll::{PollFd, PollFlags};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// A console that is silent for this long shows a prompt, not the start of a line.
const QUIET: Duration = Duration::from_millis(150);

/// What happened.
pub(super) enum Event {
    /// The console printed this.
    Output(Vec<u8>),
    /// It has been silent for a moment since then.
    Silence,
    /// The time is over.
    Deadline,
    /// QEMU ended by itself, after everything that the console printed.
    Ended,
}

/// A guest whose console is watched and recorded.
pub(super) struct Pump<'a> {
    pub(super) qemu: &'a mut Qemu,
    mount: &'a mut PrivateMount,
    stop: &'a Stop,
    log: Option<File>,
    /// Whether an incomplete line still has to be checked for a prompt.
    fresh: bool,
}

impl<'a> Pump<'a> {
    /// `log`: where the console's bytes go.
    pub(super) fn new(
        qemu: &'a mut Qemu,
        mount: &'a mut PrivateMount,
        stop: &'a Stop,
        log: Option<File>,
    ) -> Self {
        Self { qemu, mount, stop, log, fresh: false }
    }

    /// Time since QEMU's start.
    pub(super) fn now(&self) -> Duration {
        self.qemu.started.elapsed()
    }

    /// The next event before `deadline`.
    ///
    /// # Errors
    /// Fails when `stop` is raised, when QEMU fails, and when the mount ends below the guest.
    pub(super) fn next(&mut self, deadline: Instant) -> Result<Event> {
        let mut buffer = [0; 16 << 10];
        loop {
            let mut fds = vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
            fds.push(PollFd::new(self.mount.end_of_keeper(), PollFlags::POLLIN));
            let mut places = [None; 3];
            let sources = [
                self.qemu.console.as_ref().map(AsFd::as_fd),
                self.qemu.errors.as_ref().map(AsFd::as_fd),
                self.mount.messages(),
            ];
            for (place, source) in places.iter_mut().zip(sources) {
                if let Some(source) = source {
                    *place = Some(fds.len());
                    fds.push(PollFd::new(source, PollFlags::POLLIN));
                }
            }
            let next = if self.fresh { deadline.min(Instant::now() + QUIET) } else { deadline };
            let ready = poll_until(&mut fds, Some(next))?;
            let [console, errors, messages] = places.map(|place| place.is_some_and(|i| ready[i]));
            if ready[0] {
                return Err(self.stop.error());
            }
            if console {
                let console = self.qemu.console.as_mut();
                let n = console.map_or(0, |c| c.read(&mut buffer).unwrap_or(0));
                if n > 0 {
                    self.record(&buffer[..n])?;
                    self.fresh = true;
                    return Ok(Event::Output(buffer[..n].to_vec()));
                }
                self.qemu.console = None;
            } else if self.fresh {
                self.fresh = false;
                return Ok(Event::Silence);
            }
            if Instant::now() >= deadline {
                return Ok(Event::Deadline);
            }
            if messages {
                self.mount.pass_messages();
            }
            // The console first: a guest's last output arrives before QEMU ends.
            if errors && !console {
                if let Some(status) = self.qemu.read_errors() {
                    return match self.qemu.failure(status) {
                        Some(failure) => Err(failure),
                        None => Ok(Event::Ended),
                    };
                }
            }
            if ready[1] {
                return Err(mount_is_gone());
            }
        }
    }

    /// Type on the guest's keyboard.
    ///
    /// # Errors
    /// Errors of writing: QEMU has ended.
    pub(super) fn type_text(&mut self, text: &str) -> Result<()> {
        let Some(input) = &mut self.qemu.input else { return Ok(()) };
        let typed = input.write_all(text.as_bytes()).and_then(|()| input.flush());
        typed.map_err(|e| Error::io("cannot type on the guest's console", e).of_host())
    }

    fn record(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let failed = |e| Error::io("cannot write the console's log", e).of_host();
        log.write_all(bytes).map_err(failed)
    }
}

/// The error for a mount that ended while the guest was using it.
pub(super) fn mount_is_gone() -> Error {
    Error::new(ErrorKind::Host, "the disks ended below the guest")
}
