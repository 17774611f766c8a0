//! The parsers that a keeper has started for its server.

use crate::sandbox::parser_command;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::{Duration, Instant};

/// Parsers that may run at the same time. A server that was taken over must not exhaust the host.
const MOST: usize = 16;
/// How long a parser may run: it ends by itself when its socket is closed, and has a limit of CPU time.
const LIFETIME: Duration = Duration::from_secs(900);
/// How often ended parsers are looked for while there are any.
const INTERVAL: Duration = Duration::from_millis(500);

/// Running parsers, with the time at which each is killed. Dropping this kills them.
#[derive(Debug, Default)]
pub(super) struct Parsers(Vec<(Child, Instant)>);

impl Parsers {
    /// Start a parser with `socket` as its standard input. If that fails, the socket is closed.
    pub(super) fn start(&mut self, socket: OwnedFd) {
        self.reap();
        if self.0.len() >= MOST {
            return tracing::warn!("more than {MOST} parsers at a time");
        }
        let started = parser_command(socket).and_then(|mut command| {
            command.spawn().map_err(|e| crate::Error::io("cannot start a parser", e))
        });
        match started {
            Ok(child) => self.0.push((child, Instant::now() + LIFETIME)),
            Err(e) => tracing::error!("{e}"),
        }
    }

    /// When to call [`Parsers::reap`]; `None` if there are no parsers.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.0.is_empty()).then(|| Instant::now() + INTERVAL)
    }

    /// Forget those that have ended, and kill those that run for too long.
    pub(super) fn reap(&mut self) {
        let now = Instant::now();
        self.0.retain_mut(|(child, until)| {
            if *until <= now {
                let _ = child.kill(); // it may have just ended
            }
            matches!(child.try_wait(), Ok(None))
        });
    }
}

impl Drop for Parsers {
    fn drop(&mut self) {
        for (child, _) in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
