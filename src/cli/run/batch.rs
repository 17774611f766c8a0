//! Test boots, one after another or several at a time, and their results.

use super::args::{Jobs, RunArgs};
use crate::cli::pages;
use crate::disk::temporary_dir;
use crate::plan::{OverlayChoice, Plan, SourceOptions};
use crate::private_file::{self, Existing};
use crate::process::Stop;
use crate::run::admission::{Admission, Processors};
use crate::run::check::Check;
use crate::run::report::SCHEMA_VERSION;
use crate::run::results::{Record, ResultsFile, Test, check_test, known};
use crate::run::{Expectation, GuestReport, Job, Mode, Verdict, boot, report};
use crate::text::{in_a_line, printable};
use crate::{Error, Result};
use nix::unistd::Uid;
use parking_lot::Mutex;
use regex::Regex;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most guests that `--jobs auto` runs at the same time.
const MOST_JOBS: usize = 1000;

/// The origin of a guest, for its result.
pub(super) struct Origin {
    /// Its place in the list of guests, from 1.
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) config: Option<PathBuf>,
    pub(super) images: Vec<PathBuf>,
}

/// The test boots of one process.
pub(super) struct Batch<'a> {
    args: &'a RunArgs,
    expect: Regex,
    test: Test,
    /// How many guests the list has.
    fleet: u32,
    file: Option<ResultsFile>,
    /// Results of an earlier run.
    known: Vec<Record>,
    /// Those of them that belong to this run's guests.
    kept: Vec<Record>,
}

impl<'a> Batch<'a> {
    /// Tests of some of `fleet` guests.
    ///
    /// # Errors
    /// Fails if the file for results can't be used.
    pub(super) fn new(
        args: &'a RunArgs,
        expect: &Regex,
        check: Option<&Check>,
        fleet: usize,
    ) -> Result<Self> {
        let checks = check.map(Check::names).unwrap_or_default();
        let test = Test { expect: expect.as_str().to_owned(), checks };
        let (file, known) = match (&args.test.results, &args.test.resume) {
            (Some(path), _) => (Some(ResultsFile::create(path)?), Vec::new()),
            (None, Some(path)) => {
                let (file, found) = ResultsFile::resume(path)?;
                check_test(&found, &test, path)?;
                (Some(file), known(found))
            }
            (None, None) => (None, Vec::new()),
        };
        let fleet = u32::try_from(fleet).unwrap_or(u32::MAX);
        Ok(Self { args, expect: expect.clone(), test, fleet, file, known, kept: Vec::new() })
    }

    /// Whether an earlier run has a final result of this guest, which then counts.
    pub(super) fn is_done(&mut self, origin: &Origin) -> bool {
        let of_guest = |r: &Record| {
            let report = &r.report;
            r.is_final()
                && report.guest == origin.name
                && report.config == origin.config
                && report.images == origin.images
        };
        let Some(at) = self.known.iter().position(of_guest) else { return false };
        self.kept.push(Record { number: origin.number, ..self.known.swap_remove(at) });
        true
    }

    /// Boot all guests, print and write the results.
    ///
    /// # Errors
    /// Fails if a guest did not pass, or if results can't be written; what is of the host comes first.
    ///
    /// `sources`: the disks of the guests by their number, for the page.
    pub(super) fn run(
        mut self,
        jobs: Vec<(Origin, Result<Job>)>,
        sources: &BTreeMap<u32, SourceOptions>,
        stop: &Stop,
    ) -> Result<()> {
        let args = self.args;
        if !self.kept.is_empty() {
            let total = self.kept.len() + jobs.len();
            eprintln!("note:    {} of {total} guests have a result already", self.kept.len());
        }
        let timeout = args.test.timeout;
        let mode = Mode::Watch(Expectation { text: self.expect.clone(), timeout });
        let (threads, processors) = match args.test.jobs {
            Jobs::Count(count) => (count as usize, Processors::Unlimited),
            Jobs::Auto => (MOST_JOBS, Processors::Limited),
        };
        let admission = Admission::new(processors);
        let several = args.is_fleet();
        let next = AtomicUsize::new(0);
        let records: Mutex<Vec<Record>> = Mutex::new(std::mem::take(&mut self.kept));
        let unwritten: Mutex<Option<Error>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..jobs.len().min(threads) {
                scope.spawn(|| {
                    // QEMU ends with the thread that started it, so one thread runs each guest to its
                    // end.
                    // What can't be recorded would be lost: no further guest is started then.
                    while unwritten.lock().is_none() {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        let Some((origin, job)) = jobs.get(n) else { break };
                        let report = one(origin, job, &mode, &admission, stop);
                        if several {
                            let sentence = report.sentence();
                            eprintln!("{}: {}", in_a_line(&report.guest), in_a_line(&sentence));
                        }
                        let record = self.record(origin, report);
                        if let Some(Err(e)) = self.file.as_ref().map(|file| file.append(&record)) {
                            unwritten.lock().get_or_insert(e);
                        }
                        records.lock().push(record);
                    }
                });
            }
        });
        let mut records = records.into_inner();
        records.sort_by_key(|record| record.number);
        let reports: Vec<_> = records.iter().map(|record| record.report.clone()).collect();
        let stopped = stop.signal().map(|_| stop.error().of_host());
        let written = results(args, &reports).err();
        // Nobody waits for plans after a signal.
        let no_plans = BTreeMap::new();
        let sources = if stopped.is_some() { &no_plans } else { sources };
        let page = args.test.report.as_deref().map(|dir| page(dir, &records, sources));
        let page = page.and_then(Result::err);
        let written = written.into_iter().chain(page).map(Error::of_host);
        let outputs = unwritten.into_inner().into_iter().chain(written);
        let concluded = report::conclusion(&reports).err().filter(|_| stopped.is_none());
        let mut errors = stopped.into_iter().chain(outputs).chain(concluded);
        let first = errors.next();
        errors.for_each(|e| eprintln!("note:    {}", in_a_line(&e.to_string())));
        first.map_or(Ok(()), Err)
    }

    fn record(&self, origin: &Origin, report: GuestReport) -> Record {
        Record {
            schema_version: SCHEMA_VERSION,
            number: origin.number,
            fleet: self.fleet,
            test: self.test.clone(),
            report,
        }
    }
}

fn one(
    origin: &Origin,
    job: &Result<Job>,
    mode: &Mode,
    admission: &Admission,
    stop: &Stop,
) -> GuestReport {
    let error = |e: &Error| GuestReport::error(&origin.name, e);
    let mut report = match job {
        Err(e) => error(e),
        Ok(job) => {
            let booted = admission.wait(job.need(), stop).and_then(|_room| boot(job, mode, stop));
            // Whatever failed after a signal, nobody knows what the guest would have done.
            match (booted, stop.signal()) {
                (Ok(report), Some(_)) if report.verdict != Verdict::Passed => {
                    error(&stop.error().of_host())
                }
                (Ok(report), _) => report,
                (Err(e), Some(_)) => error(&e.of_host()),
                (Err(e), None) => error(&e),
            }
        }
    };
    report.config.clone_from(&origin.config);
    report.images.clone_from(&origin.images);
    let log = job.as_ref().ok().and_then(|job| job.log.clone());
    // One that was refused is of another user, and not the guest's.
    report.log = log.filter(|path| report.verdict != Verdict::Error || is_ours(path));
    report
}

/// Whether this is a regular file of this user.
fn is_ours(path: &Path) -> bool {
    let ours = |meta: Metadata| meta.is_file() && meta.uid() == Uid::effective().as_raw();
    path.symlink_metadata().is_ok_and(ours)
}

/// Write the page of these guests.
fn page(dir: &Path, records: &[Record], sources: &BTreeMap<u32, SourceOptions>) -> Result<()> {
    let guest = |record: &Record| {
        let source = sources.get(&record.number);
        let overlay = OverlayChoice::Temporary(temporary_dir());
        // What was recorded is of the boot.
        let source = source.map(|source| SourceOptions { record: None, ..source.clone() });
        let plan = source.map(|source| Plan::build(&source, &overlay)).transpose();
        pages::tested(&record.report, plan.ok().flatten().as_ref())
    };
    let guests: Vec<_> = records.iter().map(guest).collect();
    pages::write(&dir.join("index.html"), "Test boots", &guests)
}

/// Print a table or a sentence to stdout, and write the requested files.
fn results(args: &RunArgs, reports: &[GuestReport]) -> Result<()> {
    let dash = |path: &Option<PathBuf>| path.as_deref() == Some(Path::new("-"));
    let outputs = [&args.test.json, &args.test.junit, &args.test.results];
    let taken = outputs.into_iter().any(dash);
    let text = match reports {
        [one] if one.verdict == Verdict::Passed => {
            let kernel = one
                .seconds_to_kernel
                .map_or_else(String::new, |at| format!(", kernel after {at:.1} s"));
            let line = one.matched.as_deref().unwrap_or_default();
            format!("{}: {}{kernel}: {line}\n", one.guest, one.sentence())
        }
        // The returned error describes it.
        [_] => String::new(),
        [] => "no guests in this shard\n".into(),
        several => report::table(several),
    };
    // The text contains lines of a guest's console.
    let text = printable(&text);
    let printed = match taken {
        true => {
            eprint!("{text}");
            Ok(())
        }
        false => print("-".as_ref(), &text),
    };
    // Each of them, even if another one can't be written.
    let json = args.test.json.as_ref().map(|path| print(path, &report::json(reports)));
    let junit = args.test.junit.as_ref().map(|path| print(path, &report::junit(reports)));
    [Some(printed), json, junit].into_iter().flatten().collect()
}

fn print(path: &Path, text: &str) -> Result<()> {
    let written = match path == Path::new("-") {
        true => std::io::stdout().write_all(text.as_bytes()),
        false => {
            private_file::open(path, "the results", Existing::Truncate)?.write_all(text.as_bytes())
        }
    };
    written.map_err(|e| Error::io(format!("cannot write the results to {}", path.display()), e))
}
