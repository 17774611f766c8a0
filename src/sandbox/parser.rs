//! Starting a process that parses a guest's bytes.
//!
//! It is `synthdisk internal parse` with a socket as its standard input. What is said on that
//! socket is up to the two ends.

use super::keeper_link::send_descriptor;
use crate::process::ourselves;
use crate::{Error, Result};
use parking_lot::Mutex;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The byte with which a process asks its keeper to start a parser. The descriptor that comes with
/// it becomes the parser's standard input.
pub const START_PARSER: u8 = b'p';

/// The socket to the keeper of this process, if it has one.
static KEEPER: OnceLock<UnixStream> = OnceLock::new();

/// A parser that runs already, and until when it may be used.
static FIRST: Mutex<Option<(UnixStream, Instant)>> = Mutex::new(None);

/// How long a parser that runs already may be used: it ends when it is asked nothing for some
/// seconds.
const FRESH: Duration = Duration::from_secs(3);

/// From now on, ask the process at the other end of `keeper` to start parsers. A confined process
/// cannot start them.
pub fn ask_keeper_for_parsers(keeper: UnixStream) {
    let _ = KEEPER.set(keeper); // a process has one keeper
}

/// Let the first call of [`start_parser`], if it comes soon, return `parser`, the socket to one that
/// has just been started.
pub fn use_first_parser(parser: UnixStream) {
    *FIRST.lock() = Some((parser, Instant::now() + FRESH));
}

/// Start a parser, and return the socket to it. The parser ends when the socket is closed. If it
/// could not be started, reading the socket returns end-of-file.
///
/// # Errors
/// Errors of the system calls.
pub fn start_parser() -> Result<UnixStream> {
    if let Some((parser, until)) = FIRST.lock().take() {
        if Instant::now() < until {
            return Ok(parser);
        }
    }
    let failed = |e| Error::io("cannot start the process that reads the guest", e);
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    match KEEPER.get() {
        Some(keeper) => send_descriptor(keeper, START_PARSER, &theirs).map_err(failed)?,
        None => {
            let mut child = parser_command(theirs.into())?.spawn().map_err(failed)?;
            // Nothing else waits for it.
            let reap = move || drop(child.wait());
            let thread = std::thread::Builder::new().name("parser".into()).spawn(reap);
            drop(thread.map_err(failed)?);
        }
    }
    Ok(ours)
}

/// The command that starts a parser with `socket` as its standard input.
///
/// # Errors
/// When /proc does not provide the path of this program's file.
pub fn parser_command(socket: OwnedFd) -> Result<Command> {
    let mut command = ourselves()?;
    command.args(["internal", "parse"]);
    command.stdin(Stdio::from(socket)).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}
