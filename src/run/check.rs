//! Checks of a guest that runs: what it says over its serial console, and how it powers off.

mod facts;
mod session;

pub use facts::{CheckResult, Outcome};

use super::console::{Watch, hopeless};
use super::pump::{Event, Pump};
use crate::bytes::ReadAt;
use crate::identity::{Identity, PasswordHash, Script};
use crate::inspect::{Journal, journal_of};
use crate::{Error, ErrorKind, Result};
use session::{Next, Session};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// A prompt may be hidden by other output; this long after the last word it is asked for again, and then
/// after twice that time, and so on: the guest may be slow.
const NUDGE: Duration = Duration::from_secs(5);

/// What is checked inside a guest.
#[derive(Clone, Debug)]
pub struct Check {
    /// Whether it runs as it should.
    pub running: bool,
    /// The user's scripts.
    pub scripts: Vec<Script>,
    /// Root's password, which only this run's overlay has.
    password: String,
}

impl Check {
    /// Checks with a password that nobody knows.
    pub fn new(running: bool, scripts: Vec<Script>) -> Self {
        Self { running, scripts, password: random() }
    }

    /// The checks in words that tell one test from another.
    pub fn names(&self) -> Vec<String> {
        let running = self.running.then(|| "running".to_owned());
        running.into_iter().chain(self.scripts.iter().map(Script::unique_name)).collect()
    }

    /// Let root log in, and put the scripts into the guest.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if `identity` has a password.
    pub fn add_to(&self, identity: &mut Identity) -> Result<()> {
        if identity.root_password.is_some() {
            let what = "--check sets a root password of its own; drop --root-password-hash";
            return Err(Error::new(ErrorKind::Usage, what));
        }
        let mut salt = [0; 12];
        salt.copy_from_slice(&uuid::Uuid::new_v4().as_bytes()[..12]);
        identity.root_password = Some(PasswordHash::of(&self.password, salt)?);
        let facts = Script::new("facts", "facts", facts::SCRIPT.into())?;
        identity.checks = std::iter::once(facts).chain(self.scripts.iter().cloned()).collect();
        Ok(())
    }
}

/// 122 random bits as letters and digits.
fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.as_secs())
}

/// Log in, check, and power off, within `limit`.
///
/// # Errors
/// Those of the pump.
pub(super) fn converse(
    pump: &mut Pump<'_>,
    watch: &mut Watch,
    check: &Check,
    limit: Duration,
) -> Result<Vec<CheckResult>> {
    let deadline = Instant::now() + limit;
    let names = check.scripts.iter().map(|s| s.name().to_owned()).collect();
    let patience = limit.as_secs() / 2;
    let mut session =
        Session::new(&check.password, &random()[..12], check.running, names, patience);
    let mut pause = NUDGE;
    let mut nudge_at = Instant::now() + pause;
    let mut off_at = None;
    // The prompt may be there already.
    let mut next = session.silence(&watch.partial());
    let (name, outcome, detail) = loop {
        match next {
            Next::Wait => {}
            Next::Type(text) => {
                pump.type_text(&text)?;
                nudge_at = Instant::now() + pause;
            }
            Next::PowerOff(text) => {
                pump.type_text(&text)?;
                off_at = Some(Instant::now());
            }
            Next::GiveUp(why) => break ("console", Outcome::Fail, why),
        }
        let event = pump.next(deadline.min(nudge_at))?;
        if Instant::now() >= deadline && !matches!(event, Event::Ended) {
            let seconds = limit.as_secs();
            let what = format!("{seconds} s were not enough for {}", session.waits_for());
            break (if off_at.is_some() { "poweroff" } else { "console" }, Outcome::Fail, what);
        }
        next = match event {
            Event::Output(bytes) => {
                let mut next = Next::Wait;
                for line in watch.listen(&bytes, pump.now()) {
                    if let Some(why) = hopeless(&line, true) {
                        next = Next::GiveUp(why);
                        break;
                    }
                    match session.line(&line, seconds_since_1970()) {
                        Next::Wait => {}
                        other => next = other,
                    }
                }
                next
            }
            Event::Silence => session.silence(&watch.partial()),
            Event::Deadline => {
                pause = pause.saturating_mul(2);
                nudge_at = Instant::now() + pause;
                session.nudge()
            }
            Event::Ended => match off_at {
                Some(since) => {
                    let took = since.elapsed().as_secs_f64();
                    break ("poweroff", Outcome::Ok, format!("after {took:.1} s"));
                }
                None => Next::GiveUp(format!("the guest ended before {}", session.waits_for())),
            },
        };
    };
    let mut results = session.results();
    results.push(CheckResult::new(name, outcome, detail));
    Ok(results)
}

/// Whether the filesystems in `dir`, the mount of a guest that has powered off, are clean.
pub(super) fn filesystems(dir: &Path) -> CheckResult {
    let name = "filesystems";
    let Ok(entries) = std::fs::read_dir(dir) else {
        return CheckResult::new(
            name,
            Outcome::Warn,
            "not looked at: the disks are not in a mount",
        );
    };
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    files.sort();
    let (mut clean, mut bad) = (Vec::new(), Vec::new());
    for file in files {
        let file = file.to_string_lossy().into_owned();
        // A disk that is one filesystem shows it as disk.raw.
        let Ok(bytes) = Exported::open(&dir.join(&file)) else { continue };
        match journal_of(&bytes) {
            (_, None) => {}
            (kind, Some(Journal::Clean)) => clean.push(format!("{file} ({kind})")),
            (kind, Some(Journal::Dirty)) => bad.push(format!("{file} ({kind}) was not unmounted")),
            (kind, Some(Journal::Errors)) => bad.push(format!("{file} ({kind}) has errors")),
        }
    }
    match (bad.is_empty(), clean.is_empty()) {
        (false, _) => CheckResult::new(name, Outcome::Fail, bad.join(", ")),
        (true, false) => {
            CheckResult::new(name, Outcome::Ok, format!("clean: {}", clean.join(", ")))
        }
        (true, true) => CheckResult::new(name, Outcome::Warn, "none whose state is known"),
    }
}

/// A file of a mount.
struct Exported {
    file: File,
    len: u64,
}

impl Exported {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        match meta.is_file() {
            true => Ok(Self { len: meta.len(), file }),
            false => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl ReadAt for Exported {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn len(&self) -> u64 {
        self.len
    }
}
