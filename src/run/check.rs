//! Checks of a guest that runs: what it says over its serial console, and how it powers off.

mod facts;
mod session;

pub use facts::{CheckResult, Outcome};

use super::console::{Watch, hopeless};
use super::pump::{Event, Pump};
use crate::bytes::ReadAt;
use crate::identity::{Identity, PasswordHash, Script};
use crate::inspect::{Journal, journal_of};
use crate::plan::CIDATA_FILE;
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
    /// Root's password, which only one guest's overlay has.
    password: String,
}

impl Check {
    /// Checks with a password that nobody knows.
    pub fn new(running: bool, scripts: Vec<Script>) -> Self {
        Self { running, scripts, password: random() }
    }

    /// The same checks for another guest: what one guest learns lets nobody into another.
    #[must_use]
    pub fn for_another(&self) -> Self {
        Self { password: random(), ..self.clone() }
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

/// Log in, check, and power off, within `limit`. `cards`: how many network cards QEMU gives the guest.
///
/// # Errors
/// Those of the pump.
pub(super) fn converse(
    pump: &mut Pump<'_>,
    watch: &mut Watch,
    check: &Check,
    cards: usize,
    limit: Duration,
) -> Result<Vec<CheckResult>> {
    let deadline = Instant::now() + limit;
    let names = check.scripts.iter().map(|s| s.name().to_owned()).collect();
    let patience = limit.as_secs() / 2;
    let mut session =
        Session::new(&check.password, &random()[..12], check.running, names, patience)
            .with_cards(cards);
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
    let files: Vec<_> = files.iter().map(|file| file.to_string_lossy().into_owned()).collect();
    let of_disk =
        |f: &String| f.starts_with("disk") || f.starts_with("cdrom") || f.contains("part");
    let has_volumes = files.iter().any(|f| !of_disk(f) && f != CIDATA_FILE);
    let (mut clean, mut bad, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for file in files {
        // A disk that is one filesystem shows it as disk.raw.
        let bytes = match Exported::open(&dir.join(&file)) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => continue,
            Err(e) => {
                unknown.push(format!("{file} ({e})"));
                continue;
            }
        };
        match journal_of(&bytes) {
            (kind, None) if NO_FILESYSTEM.contains(&kind.as_str()) => {}
            // Its volumes have files of their own.
            (kind, None) if kind == "LVM2_member" && has_volumes => {}
            (kind, None) if kind == "unknown" && bytes.is_of_firmware() => {}
            (kind, None) => unknown.push(format!("{file} ({kind})")),
            // Its superblock has no mark of a clean end: without a log it may be either.
            (kind, Some(Journal::Clean)) if kind == "btrfs" => {
                unknown.push(format!("{file} (btrfs, nothing to replay)"));
            }
            (kind, Some(Journal::Clean)) => clean.push(format!("{file} ({kind})")),
            (kind, Some(Journal::Dirty)) => bad.push(format!("{file} ({kind}) was not unmounted")),
            (kind, Some(Journal::Errors)) => bad.push(format!("{file} ({kind}) has errors")),
        }
    }
    let (clean, bad, unknown) = (clean.join(", "), bad.join(", "), unknown.join(", "));
    let (outcome, detail) = match (clean.is_empty(), unknown.is_empty()) {
        _ if !bad.is_empty() => (Outcome::Fail, bad),
        (false, true) => (Outcome::Ok, format!("clean: {clean}")),
        (false, false) => (Outcome::Warn, format!("clean: {clean}; unknown: {unknown}")),
        (true, false) => (Outcome::Warn, format!("unknown: {unknown}")),
        (true, true) => (Outcome::Warn, "none whose state is known".into()),
    };
    CheckResult::new(name, outcome, detail)
}

/// What no guest unmounts: a whole disk, whose partitions have files of their own; swap; what can't be
/// written.
const NO_FILESYSTEM: [&str; 6] = ["mbr-disk", "gpt-disk", "swap", "iso9660", "squashfs", "empty"];

/// Nothing shorter, in bytes, has the files of a guest; the boot loader's partition may be this short.
const SMALL: u64 = 32 << 20;

/// A file of a mount.
struct Exported {
    file: File,
    len: u64,
}

impl Exported {
    /// `None` for what is no regular file.
    fn open(path: &Path) -> io::Result<Option<Self>> {
        if !path.symlink_metadata()?.is_file() {
            return Ok(None);
        }
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Some(Self { file, len }))
    }

    /// Whether this is a FAT, or too short for more than a boot loader.
    fn is_of_firmware(&self) -> bool {
        let mut head = [0; 512];
        // Source: Microsoft, "FAT: General Overview of On-Disk Format", BS_FilSysType.
        let fat = |head: &[u8]| &head[0x36..0x39] == b"FAT" || &head[0x52..0x55] == b"FAT";
        self.len < SMALL || self.read_at(&mut head, 0).is_ok() && fat(&head)
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
