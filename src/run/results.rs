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
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

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
}

impl ResultsFile {
    /// Begin a new file; `-` is standard output.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there are results in it, [`ErrorKind::Busy`] if another process
    /// writes to it; errors of opening it.
    pub fn create(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return Ok(Self { shown: "standard output".into(), file: None });
        }
        let results = Self::open(path)?;
        if results.len()? > 0 {
            let what = format!(
                "{} contains results; continue with --resume, or choose another file",
                path.display()
            );
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        Ok(results)
    }

    /// Continue the file `path`, or begin it. Returns the results in it; an incomplete last line is
    /// removed.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if another process writes to it; errors of [`read`] and of opening it.
    pub fn resume(path: &Path) -> Result<(Self, Vec<Record>)> {
        let results = Self::open(path)?;
        let (records, complete) = read(path)?;
        if let Some(file) = &results.file {
            if complete < results.len()? {
                file.lock().set_len(complete).map_err(|e| results.failed(e))?;
            }
        }
        Ok((results, records))
    }

    fn open(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let file = private_file::open(path, "the results", Existing::Append)?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| {
            let what = format!("{shown} is in use by another synthdisk");
            match e {
                nix::errno::Errno::EWOULDBLOCK => Error::new(ErrorKind::Busy, what),
                e => Error::io(format!("cannot lock {shown}"), e.into()),
            }
        });
        Ok(Self { file: Some(Mutex::new(locked?)), shown })
    }

    fn failed(&self, e: std::io::Error) -> Error {
        Error::io(format!("cannot write the results to {}", self.shown), e).of_host()
    }

    fn len(&self) -> Result<u64> {
        let Some(file) = &self.file else { return Ok(0) };
        file.lock().metadata().map(|m| m.len()).map_err(|e| self.failed(e))
    }

    /// Append a line and store it on stable storage.
    ///
    /// # Errors
    /// Errors of writing.
    pub fn append(&self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record).map_err(|e| self.failed(e.into()))?;
        line.push(b'\n');
        match &self.file {
            None => std::io::stdout().write_all(&line),
            Some(file) => {
                let file = file.lock();
                (&**file).write_all(&line).and_then(|()| match file.metadata()?.is_file() {
                    true => file.sync_data(),
                    false => Ok(()),
                })
            }
        }
        .map_err(|e| self.failed(e))
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

/// The results of a fleet, each guest once.
#[derive(Debug)]
pub struct Merged {
    /// In the order of the fleet's list.
    pub records: Vec<Record>,
    /// How many guests of the list have no result.
    pub missing: u32,
}

/// One result per guest: a final one before one that blames the host, a later one before an earlier.
pub fn merge(records: impl IntoIterator<Item = Record>) -> Merged {
    let mut newest: BTreeMap<Key, Record> = BTreeMap::new();
    let mut fleet = 0;
    for record in records {
        fleet = fleet.max(record.fleet);
        let key = record.key();
        if record.is_final() || newest.get(&key).is_none_or(|known| !known.is_final()) {
            newest.insert(key, record);
        }
    }
    let mut records: Vec<_> = newest.into_values().collect();
    records.sort_by_key(|r| r.number); // stable: then by name
    let missing = fleet.saturating_sub(u32::try_from(records.len()).unwrap_or(u32::MAX));
    Merged { records, missing }
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
        assert_eq!(ResultsFile::resume(&path).unwrap_err().kind(), ErrorKind::Busy);
        results.append(&record(1, Verdict::Passed, None)).unwrap();
        results.append(&record(2, Verdict::Failed, None)).unwrap();
        drop(results);
        let whole = fs::read(&path).unwrap();
        assert_eq!(ResultsFile::create(&path).unwrap_err().kind(), ErrorKind::Invalid);
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
    fn every_guest_once() {
        let merged = merge([
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
