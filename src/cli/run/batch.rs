//! Test boots, one after another or several at a time, and their results.

use super::args::RunArgs;
use crate::private_file::{self, Existing};
use crate::process::Stop;
use crate::run::{Expectation, GuestReport, Job, Mode, Verdict, boot, report};
use crate::text::{in_a_line, printable};
use crate::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use regex::Regex;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The origin of a guest, for its report.
pub(super) struct Origin {
    pub(super) name: String,
    pub(super) config: Option<PathBuf>,
    pub(super) images: Vec<PathBuf>,
}

/// Boot all guests, print and write the results.
///
/// # Errors
/// Fails if a guest did not pass, or if results can't be written.
pub(super) fn run(
    args: &RunArgs,
    text: &Regex,
    jobs: Vec<(Origin, Result<Job>)>,
    stop: &Stop,
) -> Result<()> {
    let mode = Mode::Watch(Expectation { text: text.clone(), timeout: args.test.timeout });
    let several = jobs.len() > 1;
    let next = AtomicUsize::new(0);
    let reports: Vec<Mutex<Option<GuestReport>>> = jobs.iter().map(|_| Mutex::default()).collect();
    std::thread::scope(|scope| {
        for _ in 0..jobs.len().min(args.test.jobs as usize) {
            scope.spawn(|| {
                // QEMU ends with the thread that started it, so one thread runs each guest to its
                // end.
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some((origin, job)) = jobs.get(n) else { break };
                    let report = one(origin, job, &mode, stop);
                    if several {
                        let sentence = report.sentence();
                        eprintln!("{}: {}", in_a_line(&report.guest), in_a_line(&sentence));
                    }
                    *reports[n].lock() = Some(report);
                }
            });
        }
    });
    let reports: Vec<_> = reports.into_iter().filter_map(Mutex::into_inner).collect();
    results(args, &reports)?;
    verdict(&reports, stop)
}

fn one(origin: &Origin, job: &Result<Job>, mode: &Mode, stop: &Stop) -> GuestReport {
    let booted = match job {
        Err(e) => Err(e.to_string()),
        Ok(_) if stop.signal().is_some() => Err("not started".into()),
        Ok(job) => boot(job, mode, stop).map_err(|e| e.to_string()),
    };
    let mut report = booted.unwrap_or_else(|e| GuestReport::error(&origin.name, e));
    report.config.clone_from(&origin.config);
    report.images.clone_from(&origin.images);
    report.log = job.as_ref().ok().and_then(|job| job.log.clone());
    report
}

/// Print a table or a sentence to stdout, and write the requested files.
fn results(args: &RunArgs, reports: &[GuestReport]) -> Result<()> {
    let dash = |path: &Option<PathBuf>| path.as_deref() == Some(Path::new("-"));
    let taken = dash(&args.test.json) || dash(&args.test.junit);
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
        several => report::table(several),
    };
    // The text contains lines of a guest's console.
    let text = printable(&text);
    if taken {
        eprint!("{text}");
    } else {
        print("-".as_ref(), &text)?;
    }
    if let Some(path) = &args.test.json {
        print(path, &report::json(reports))?;
    }
    if let Some(path) = &args.test.junit {
        print(path, &report::junit(reports))?;
    }
    Ok(())
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

fn verdict(reports: &[GuestReport], stop: &Stop) -> Result<()> {
    if stop.signal().is_some() {
        return Err(stop.error());
    }
    let failed = |what: String| Err(Error::new(ErrorKind::Io, what));
    match reports {
        [one] if one.verdict == Verdict::Passed => Ok(()),
        [one] => failed(format!("{}: {}", one.guest, one.reason.as_deref().unwrap_or_default())),
        several => {
            let bad = several.iter().filter(|r| r.verdict != Verdict::Passed).count();
            if bad == 0 {
                return Ok(());
            }
            failed(format!("{bad} of {} guests did not pass", several.len()))
        }
    }
}
