//! `synthdisk report`: results of test boots that several processes wrote.

use super::pages;
use crate::private_file::{self, Existing};
use crate::run::report::{GuestReport, conclusion, json, junit, table};
use crate::run::results::{
    Merged, ResultsFile, before_any_guest, check_list, check_test, merge, read,
};
use crate::text::printable;
use crate::{Error, ErrorKind, Result};
use clap::{Args, Subcommand};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What to do with results.
#[derive(Debug, Subcommand)]
pub(super) enum ReportCommand {
    /// Merge result files of shards and of repeated runs: every guest once. Exits with 1 if one failed,
    /// with 3 if one has no result or could not be tested because of its host
    Merge(MergeArgs),
}

/// Arguments of `report merge`.
#[derive(Debug, Args)]
pub(super) struct MergeArgs {
    /// Files written by `synthdisk run --results` or `--resume`
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Write the merged results as JSON Lines, which can be merged again; - is standard output
    #[arg(long, value_name = "FILE|-")]
    results: Option<PathBuf>,

    /// Write the merged results as JSON; - is standard output
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,

    /// Write a page with the merged results to this file: HTML that needs nothing else
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Write the merged results as JUnit XML; - is standard output
    #[arg(long, value_name = "FILE|-")]
    junit: Option<PathBuf>,
}

/// Run the command.
pub(super) fn run(command: ReportCommand) -> Result<()> {
    match command {
        ReportCommand::Merge(args) => merge_files(&args),
    }
}

fn merge_files(args: &MergeArgs) -> Result<()> {
    let mut records = Vec::new();
    for path in &args.files {
        let (found, _) = read(path).map_err(|e| match e.kind() {
            ErrorKind::Io => e.of_host(),
            _ => before_any_guest(e),
        })?;
        if let Some(first) = records.first().or(found.first()) {
            check_test(&found, &first.test.clone(), path).map_err(before_any_guest)?;
        }
        records.extend(found);
    }
    check_list(&records)?;
    let merged = merge(records);
    let reports: Vec<_> = merged.records.iter().map(|r| r.report.clone()).collect();
    // Codes say what became of the guests; whatever else fails, fails because of this host.
    write_all(args, &merged, &reports).map_err(|e| match e.kind() {
        ErrorKind::Usage => e,
        _ => e.of_host(),
    })?;
    if reports.is_empty() {
        let what = "there are no results in the files: no guest has been tested yet";
        return Err(Error::new(ErrorKind::Host, what));
    }
    let concluded = conclusion(&reports);
    if merged.missing > 0 {
        let total = u64::from(merged.missing) + reports.len() as u64;
        let what = format!("{} of {total} guests have no result yet", merged.missing);
        return Err(Error::new(ErrorKind::Host, what));
    }
    concluded
}

/// Print the table, and write what was requested.
fn write_all(args: &MergeArgs, merged: &Merged, reports: &[GuestReport]) -> Result<()> {
    let outputs = [&args.results, &args.json, &args.junit];
    let taken = outputs.iter().any(|path| path.as_deref() == Some(Path::new("-")));
    let table = table(reports);
    let table = printable(&table);
    if taken {
        eprint!("{table}");
    } else {
        write(Path::new("-"), &table)?;
    }
    if let Some(path) = &args.results {
        let file = ResultsFile::create(path)?;
        merged.records.iter().try_for_each(|record| file.append(record))?;
    }
    if let Some(path) = &args.json {
        write(path, &json(reports))?;
    }
    if let Some(path) = &args.junit {
        write(path, &junit(reports))?;
    }
    if let Some(path) = &args.report {
        let below: Vec<_> = args.files.iter().filter_map(|file| directory(file)).collect();
        // A line may name any file, and pages are shown around.
        let ours = |named: &Option<PathBuf>| {
            let path = named.as_ref()?.canonicalize().ok()?;
            below.iter().any(|dir| path.starts_with(dir)).then_some(path)
        };
        let tested = |report: &GuestReport| {
            let (log, screenshot) = (ours(&report.log), ours(&report.screenshot));
            pages::tested(&GuestReport { log, screenshot, ..report.clone() }, None)
        };
        let guests: Vec<_> = reports.iter().map(tested).collect();
        pages::write(path, "Test boots", &guests)?;
    }
    Ok(())
}

/// The directory of a file, without symlinks.
fn directory(file: &Path) -> Option<PathBuf> {
    file.canonicalize().ok()?.parent().map(Path::to_owned)
}

fn write(path: &Path, text: &str) -> Result<()> {
    let written = match path == Path::new("-") {
        true => std::io::stdout().write_all(text.as_bytes()),
        false => {
            private_file::open(path, "the results", Existing::Truncate)?.write_all(text.as_bytes())
        }
    };
    written.map_err(|e| Error::io(format!("cannot write the results to {}", path.display()), e))
}
