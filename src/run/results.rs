//! Results of a fleet's test boots as JSON Lines: one line per guest, written when it has ended.
//!
//! A process may be killed at any time, so a line is one write to the end of the file, and a last line
//! without its newline is none.

use super::report::{Fault, GuestReport, SCHEMA_VERSION, Verdict};
use crate::private_file::{self, Existing};
use crate::{Error, ErrorKind, Result};
use nix::fcntl::{Flock, FlockArg};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The longest line that is read, in bytes. The last lines of a console are most of it.
const LINE_MAX: u64 = 16 << 20;

/// What was tested. Results of different tests are never mixed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Test {
    /// The expression that the console was searched for.
    pub expect: String,
    /// What was checked inside the guests.
    #[serde(default)]
    pub checks: Vec<String>,
}

/// One line: the result of a guest, and its place in the fleet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The guest's place in the list of all guests, from 1.
    pub number: u32,
    /// How many guests are in the list, whichever share of it a process has.
    pub fleet: u32,
    /// What was tested.
    pub test: Test,
    /// The result.
    #[serde(flatten)]
    pub report: GuestReport,
}

/// Identifies a guest in results: its name, its config, its images.
type Key = (String, Option<PathBuf>, Vec<PathBuf>);

impl Record {
    /// What identifies the guest.
    pub fn key(&self) -> Key {
        (self.report.guest.clone(), self.report.config.clone(), self.report.images.clone())
    }

    /// Whether running the guest again would tell nothing new: it passed or failed, or could not be
    /// run for a reason of its own.
    pub fn is_final(&self) -> bool {
        self.report.verdict != Verdict::Error || self.report.fault != Some(Fault::Host)
    }
}

/// A file that results are appended to.
#[derive(Debug)]
pub struct ResultsFile {
    shown: String,
    /// `None`: standard output.
    file: Option<Mutex<Flock<File>>>,
    /// The length of the complete lines in bytes, if the file is a regular one; under the lock of `file`.
    complete: AtomicU64,
}

impl ResultsFile {
    /// Begin a new file; `-` is standard output.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if there are results in it, [`ErrorKind::Host`] if another process writes to
    /// it; errors of opening it.
    pub fn create(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            let complete = AtomicU64::default();
            return Ok(Self { shown: "standard output".into(), file: None, complete });
        }
        let results = Self::open(path)?;
        if results.len()? > 0 {
            let what = format!(
                "{} contains results; continue with --resume, or choose another file",
                path.display()
            );
            return Err(Error::new(ErrorKind::Usage, what));
        }
        Ok(results)
    }

    /// Continue the file `path`, or begin it. Returns the results in it; an incomplete last line is
    /// removed.
    ///
    /// # Errors
    /// [`ErrorKind::Host`] if another process writes to it; errors of [`read`] and of opening it.
    pub fn resume(path: &Path) -> Result<(Self, Vec<Record>)> {
        let results = Self::open(path)?;
        let (records, complete) = read(path)?;
        if let Some(file) = &results.file {
            if complete < results.len()? {
                file.lock().set_len(complete).map_err(|e| results.failed(e))?;
            }
        }
        results.complete.store(complete, Ordering::Relaxed);
        Ok((results, records))
    }

    fn open(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let file = private_file::open(path, "the results", Existing::Append)?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| {
            let what = format!("{shown} is in use by another synthdisk");
            match e {
                // The other one may have ended when this is tried again.
                nix::errno::Errno::EWOULDBLOCK => Error::new(ErrorKind::Host, what),
                e => Error::io(format!("cannot lock {shown}"), e.into()).of_host(),
            }
        });
        Ok(Self { file: Some(Mutex::new(locked?)), shown, complete: AtomicU64::default() })
    }

    fn failed(&self, e: std::io::Error) -> Error {
        Error::io(format!("cannot write the results to {}", self.shown), e).of_host()
    }

    fn len(&self) -> Result<u64> {
        let Some(file) = &self.file else { return Ok(0) };
        file.lock().metadata().map(|m| m.len()).map_err(|e| self.failed(e))
    }

    /// Append a line and store it on stable storage. What a full disk leaves of a line is removed, at the
    /// latest before the next line.
    ///
    /// # Errors
    /// Errors of writing.
    pub fn append(&self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record).map_err(|e| self.failed(e.into()))?;
        line.push(b'\n');
        match &self.file {
            None => std::io::stdout().write_all(&line),
            Some(file) => self.append_to(&file.lock(), &line),
        }
        .map_err(|e| self.failed(e))
    }

    fn append_to(&self, mut file: &File, line: &[u8]) -> io::Result<()> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return file.write_all(line);
        }
        let complete = self.complete.load(Ordering::Relaxed);
        if meta.len() != complete {
            file.set_len(complete)?;
        }
        let written = file.write_all(line).and_then(|()| file.sync_data());
        match written {
            Ok(()) => self.complete.store(complete + line.len() as u64, Ordering::Relaxed),
            Err(_) => file.set_len(complete)?,
        }
        written
    }
}

/// An error before anything was started: one of the host if trying again may help, else of how the
/// program was called. No guest is the cause.
pub fn before_any_guest(e: Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&e);
    let mut missing = false;
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>().map(io::Error::kind);
        missing |= matches!(io, Some(io::ErrorKind::NotFound | io::ErrorKind::InvalidData));
        cause = error.source();
    }
    match e.kind() {
        ErrorKind::Host | ErrorKind::Usage => e,
        ErrorKind::Io if !missing => e.of_host(),
        _ => Error::with_source(ErrorKind::Usage, "", e),
    }
}

/// The results in `path`, and how many bytes the complete lines have.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for a line that is no result, [`ErrorKind::Unsupported`] for one of a later
/// version; errors of reading.
pub fn read(path: &Path) -> Result<(Vec<Record>, u64)> {
    let shown = path.display();
    let failed = |e| Error::io(format!("cannot read {shown}"), e);
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let (mut records, mut complete, mut line) = (Vec::new(), 0, Vec::new());
    for number in 1.. {
        line.clear();
        let len = (&mut reader).take(LINE_MAX).read_until(b'\n', &mut line).map_err(failed)?;
        if line.last() != Some(&b'\n') {
            if len as u64 == LINE_MAX {
                let what = format!("line {number} of {shown} is too long for a result");
                return Err(Error::new(ErrorKind::Corrupt, what));
            }
            break; // the end, or what a killed process could not complete
        }
        complete += len as u64;
        records.push(parse(&line, &format!("line {number} of {shown}"))?);
    }
    Ok((records, complete))
}

fn parse(line: &[u8], shown: &str) -> Result<Record> {
    /// Read first: a later version may have other fields.
    #[derive(Deserialize)]
    struct Version {
        schema_version: u32,
    }
    let wrong = |e: serde_json::Error| {
        Error::new(ErrorKind::Corrupt, format!("{shown} is no result of a test boot: {e}"))
    };
    let version = serde_json::from_slice::<Version>(line).map_err(wrong)?.schema_version;
    if version != SCHEMA_VERSION {
        let what =
            format!("{shown} has schema version {version}; this program knows {SCHEMA_VERSION}");
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    serde_json::from_slice(line).map_err(wrong)
}

/// Check that `records`, read from `path`, are of `test`.
///
/// # Errors
/// [`ErrorKind::Invalid`] if one is not.
pub fn check_test(records: &[Record], test: &Test, path: &Path) -> Result<()> {
    match records.iter().find(|r| r.test != *test) {
        None => Ok(()),
        Some(other) => {
            let checks = match other.test.checks.as_slice() {
                [] => String::new(),
                some => format!(", checks: {}", some.join(", ")),
            };
            let what = format!(
                "{} has results of another test (--expect '{}'{checks}); choose another file",
                path.display(),
                other.test.expect
            );
            Err(Error::new(ErrorKind::Invalid, what))
        }
    }
}

/// Check that `records` are of one list of guests.
///
/// # Errors
/// [`ErrorKind::Usage`] if they are not.
pub fn check_list(records: &[Record]) -> Result<()> {
    let mut names = BTreeMap::new();
    let Some(fleet) = records.first().map(|r| r.fleet) else { return Ok(()) };
    for record in records {
        let name = &record.report.guest;
        let known = *names.entry(record.number).or_insert(name);
        let number = record.number;
        let what = if record.fleet != fleet {
            format!("one of {fleet} guests, and one of {}", record.fleet)
        } else if known != name {
            format!("guest {number} is {known} in one and {name} in the other")
        } else if !(1..=fleet).contains(&number) {
            format!("there is a guest {number} of {fleet}")
        } else {
            continue;
        };
        let what = format!(
            "these are results of different lists of guests: {what}; test all with one list, or \
             merge only files that belong together"
        );
        return Err(Error::new(ErrorKind::Usage, what));
    }
    Ok(())
}

/// The results of a fleet, each guest once.
#[derive(Debug)]
pub struct Merged {
    /// In the order of the fleet's list.
    pub records: Vec<Record>,
    /// How many guests of the list have no result.
    pub missing: u32,
}

/// One result per guest of a list, as [`check_list`] permits: a final one before one that blames the host, a
/// later one before an earlier. The place in the list tells guests apart, however their files are named.
pub fn merge(records: Vec<Record>) -> Merged {
    let fleet = records.iter().map(|r| r.fleet).max().unwrap_or(0);
    let records = newest(records, |r| r.number);
    let tested = records.iter().filter(|r| (1..=fleet).contains(&r.number)).count();
    let missing = fleet.saturating_sub(u32::try_from(tested).unwrap_or(u32::MAX));
    Merged { records, missing }
}

/// As [`merge`], for results of lists that may have changed in between: names and files tell guests apart.
pub fn known(records: Vec<Record>) -> Vec<Record> {
    newest(records, Record::key)
}

fn newest<K: Ord>(records: Vec<Record>, key: impl Fn(&Record) -> K) -> Vec<Record> {
    let mut newest: BTreeMap<K, Record> = BTreeMap::new();
    for record in records {
        let key = key(&record);
        if record.is_final() || newest.get(&key).is_none_or(|known| !known.is_final()) {
            newest.insert(key, record);
        }
    }
    let mut records: Vec<_> = newest.into_values().collect();
    records.sort_by_key(|r| r.number); // stable: then by name
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    fn record(number: u32, verdict: Verdict, fault: Option<Fault>) -> Record {
        let mut report = GuestReport::new(&format!("g{number}"), verdict, Duration::ZERO);
        report.fault = fault;
        report.tail = vec!["\u{1b}[31m \"quoted\" \u{2028} \n".into()];
        let test = Test { expect: "login:".into(), checks: Vec::new() };
        Record { schema_version: SCHEMA_VERSION, number, fleet: 4, test, report }
    }

    #[test]
    fn a_killed_process_loses_one_line_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.jsonl");
        let results = ResultsFile::create(&path).unwrap();
        assert_eq!(ResultsFile::resume(&path).unwrap_err().kind(), ErrorKind::Host);
        results.append(&record(1, Verdict::Passed, None)).unwrap();
        results.append(&record(2, Verdict::Failed, None)).unwrap();
        drop(results);
        let whole = fs::read(&path).unwrap();
        assert_eq!(ResultsFile::create(&path).unwrap_err().kind(), ErrorKind::Usage);
        let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (results, records) = ResultsFile::resume(&path).unwrap();
            let expected = usize::from(cut >= first) + usize::from(cut == whole.len());
            assert_eq!(records.len(), expected, "cut at {cut}");
            results.append(&record(3, Verdict::Passed, None)).unwrap();
            drop(results);
            assert_eq!(read(&path).unwrap().0.len(), expected + 1, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_result_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.jsonl");
        for (text, kind) in [
            ("{}\n", ErrorKind::Corrupt),
            ("\n", ErrorKind::Corrupt),
            ("\u{0}\n", ErrorKind::Corrupt),
            ("{\"schema_version\":1}\n", ErrorKind::Corrupt),
            ("{\"schema_version\":2,\"new\":1}\n", ErrorKind::Unsupported),
        ] {
            fs::write(&path, text).unwrap();
            let e = read(&path).unwrap_err();
            assert_eq!(e.kind(), kind, "{text}: {e}");
            assert!(e.to_string().contains("line 1 of "), "{e}");
        }
        let records = [record(1, Verdict::Passed, None)];
        let test = Test { expect: "x".into(), checks: Vec::new() };
        let e = check_test(&records, &test, &path).unwrap_err().to_string();
        assert!(e.contains("--expect 'login:'"), "{e}");
    }

    #[test]
    fn half_a_line_is_removed_before_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.jsonl");
        let results = ResultsFile::create(&path).unwrap();
        results.append(&record(1, Verdict::Passed, None)).unwrap();
        // As a full disk leaves it.
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"sch").unwrap();
        results.append(&record(2, Verdict::Passed, None)).unwrap();
        assert_eq!(read(&path).unwrap().0.len(), 2);
    }

    #[test]
    fn guests_are_counted_by_their_place_in_one_list() {
        let absolute = |number| {
            let mut other = record(number, Verdict::Passed, None);
            other.report.config = Some("/etc/xen/g.cfg".into());
            other
        };
        let both = vec![record(1, Verdict::Passed, None), absolute(1)];
        check_list(&both).unwrap();
        assert_eq!(known(both.clone()).len(), 2);
        let merged = merge(both);
        assert_eq!((merged.records.len(), merged.missing), (1, 3));
        let (mut longer, mut renamed) = (absolute(2), absolute(1));
        longer.fleet = 5;
        renamed.report.guest = "other".into();
        for (other, part) in
            [(longer, "one of 5"), (renamed, "is g1 in one"), (absolute(9), "9 of 4")]
        {
            let e = check_list(&[record(1, Verdict::Passed, None), other]).unwrap_err();
            assert!(e.to_string().contains(part), "{e}");
        }
    }

    #[test]
    fn errors_before_any_guest_are_of_the_host_or_of_the_call() {
        let io = |code| Error::io("cannot read x", io::Error::from_raw_os_error(code));
        for (error, kind) in [
            (io(libc::EIO), ErrorKind::Host),
            (io(libc::EACCES), ErrorKind::Host),
            (io(libc::ENOENT), ErrorKind::Usage),
            (Error::new(ErrorKind::Corrupt, "x"), ErrorKind::Usage),
        ] {
            assert_eq!(before_any_guest(error).kind(), kind);
        }
    }

    #[test]
    fn every_guest_once() {
        let merged = merge(vec![
            record(3, Verdict::Passed, None),
            record(1, Verdict::Error, Some(Fault::Host)),
            record(2, Verdict::Failed, None),
            record(1, Verdict::Passed, None),
            record(1, Verdict::Error, Some(Fault::Host)),
        ]);
        let shown: Vec<_> =
            merged.records.iter().map(|r| (r.report.guest.as_str(), r.report.verdict)).collect();
        let expected = [("g1", Verdict::Passed), ("g2", Verdict::Failed), ("g3", Verdict::Passed)];
        assert_eq!(shown, expected);
        assert_eq!(merged.missing, 1);
        assert!(!record(1, Verdict::Error, Some(Fault::Host)).is_final());
        assert!(record(1, Verdict::Error, Some(Fault::Guest)).is_final());
    }
}
