//! Guests for a page to look at: a plan drawn, results in words.

use super::adapt::diff;
use crate::bytes::ReadAt;
use crate::disk::RegionKind;
use crate::inspect::{self, Answer};
use crate::layout::PartitionKind;
use crate::page::{CONSOLE_MAX, Checked, Disk, EditedFile, Guest, Mood, Part, PartKind, render};
use crate::plan::{Plan, PlannedDisk};
use crate::private_file::{self, Existing};
use crate::run::check::Outcome;
use crate::run::report::{Fault, GuestReport, Verdict};
use crate::{Error, Result};
use std::fs::{Metadata, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The largest picture that a page contains, in bytes.
const PICTURE_MAX: u64 = 4 << 20;

/// Files whose contents are nobody's business; a report may be shown around.
const SECRET: [&str; 4] = ["/etc/shadow", "/etc/gshadow", "/etc/ssh/ssh_host", "/etc/synthdisk"];

/// Write a page of these guests to `path`.
///
/// # Errors
/// Errors of writing it.
pub(super) fn write(path: &Path, title: &str, guests: &[Guest]) -> Result<()> {
    let page = render(title, concat!("synthdisk ", env!("CARGO_PKG_VERSION")), guests);
    let written =
        private_file::open(path, "the page", Existing::Truncate)?.write_all(page.as_bytes());
    written.map_err(|e| Error::io(format!("cannot write the page to {}", path.display()), e))
}

/// A guest without results.
fn empty(name: &str) -> Guest {
    Guest {
        name: name.to_owned(),
        mood: Mood::Untried,
        verdict: String::new(),
        sentence: String::new(),
        facts: Vec::new(),
        timeline: Vec::new(),
        disks: Vec::new(),
        edits: Vec::new(),
        checks: Vec::new(),
        warnings: Vec::new(),
        console: None,
        screenshot: None,
        next: Vec::new(),
    }
}

/// Add what a mount of `plan` shows and edits.
fn add_plan(guest: &mut Guest, plan: &Plan) {
    guest.disks = plan.disks.iter().map(disk).collect();
    if let Some(boot) = &plan.boot {
        guest.facts.push(("Boots", boot.title.clone()));
        guest.facts.push(("Kernel", boot.kernel.clone()));
        guest.facts.push(("Command line", boot.cmdline.clone()));
        guest.warnings.extend(boot.warnings.iter().cloned());
    }
    guest.warnings.extend(plan.notes.iter().cloned());
    match &plan.adaptation {
        Ok(adaptation) => {
            let edits = adaptation.iter().flat_map(|a| &a.edits);
            guest.edits = edits
                .map(|edit| EditedFile {
                    path: edit.path.clone(),
                    why: edit.why.clone(),
                    diff: match SECRET.iter().any(|path| edit.path.starts_with(path)) {
                        true => "Not shown, as it may contain secrets.".into(),
                        false => diff(edit),
                    },
                })
                .collect();
        }
        Err(e) => guest.warnings.push(format!("the guest cannot be adapted: {e}")),
    }
}

/// A disk with its regions; those of one partition are one part.
pub(super) fn disk(planned: &PlannedDisk) -> Disk {
    let kind = |number: u32| {
        let mut partitions = planned.layout.iter().flat_map(|l| &l.partitions);
        partitions.find(|p| p.number == number).map(|p| p.kind)
    };
    let mut parts: Vec<Part> = Vec::new();
    let mut last = None;
    for region in planned.disk.current_table().regions() {
        let number = match region.kind {
            RegionKind::Partition(n) | RegionKind::SwapHeader(n) => Some(n),
            _ => None,
        };
        if let (Some(_), Some(part)) = (number.filter(|_| number == last), parts.last_mut()) {
            part.len += region.len;
            continue;
        }
        last = number;
        let (part, name) = match (region.kind, number.and_then(kind)) {
            (_, Some(PartitionKind::Swap)) => (PartKind::Swap, "swap"),
            (_, Some(PartitionKind::BiosBoot | PartitionKind::EfiSystem)) => {
                (PartKind::Boot, "boot loader")
            }
            (RegionKind::Partition(_) | RegionKind::SwapHeader(_) | RegionKind::Image, _) => {
                (PartKind::Data, region.kind.as_str())
            }
            (RegionKind::Gap, _) => (PartKind::Gap, "gap"),
            _ => (PartKind::Boot, region.kind.as_str()),
        };
        let name = match number {
            Some(number) => format!("{name}, part{number}.raw"),
            None => name.to_owned(),
        };
        let (start, len, origin) = (region.start, region.len, region.origin.to_string());
        parts.push(Part { kind: part, start, len, name, origin });
    }
    let parts = readable(parts);
    Disk { name: format!("{} ({})", planned.file, planned.vdev), len: planned.disk.len(), parts }
}

/// Parts shorter than this, in bytes, are not worth a line of their own.
const SMALL: u64 = 1 << 20;

/// What is small joins what is before it: a short gap any part, a short part of the boot area another one.
fn readable(parts: Vec<Part>) -> Vec<Part> {
    let mut out: Vec<Part> = Vec::new();
    for part in parts {
        let small = |p: &Part| p.len < SMALL && matches!(p.kind, PartKind::Boot | PartKind::Gap);
        match out.last_mut() {
            Some(last) if part.kind == PartKind::Gap && small(&part) => last.len += part.len,
            Some(last) if last.kind == PartKind::Boot && small(last) && small(&part) => {
                last.len += part.len;
                last.name = format!("{}, {}", last.name, part.name);
                last.origin = format!("{}; {}", last.origin, part.origin);
            }
            _ => out.push(part),
        }
    }
    out
}

/// The end of a file of ours, at most `max` bytes of it; `None` if it can't be read. A name may meanwhile be
/// that of a symlink, a pipe or a device of somebody else, which are not opened.
fn tail(path: Option<&Path>, max: u64) -> Option<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path?).ok()?;
    let meta = file.metadata().ok().filter(Metadata::is_file)?;
    file.seek(SeekFrom::Start(meta.len().saturating_sub(max))).ok()?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes).ok()?;
    (!bytes.is_empty()).then_some(bytes)
}

/// A whole picture of ours.
fn picture(path: Option<&Path>) -> Option<Vec<u8>> {
    path.filter(|path| path.symlink_metadata().is_ok_and(|m| m.len() <= PICTURE_MAX))?;
    tail(path, PICTURE_MAX)
}

/// A guest that was test-booted. `plan`: its disks, or why they can't be planned.
pub(super) fn tested(report: &GuestReport, plan: Option<&Plan>) -> Guest {
    let mut guest = empty(&report.guest);
    (guest.mood, guest.verdict) = match (report.verdict, report.fault) {
        (Verdict::Passed, _) => (Mood::Good, "passed".into()),
        (_, Some(Fault::Host)) => (Mood::Untried, "not tested".into()),
        (Verdict::Failed, _) => (Mood::Bad, "failed".into()),
        _ => (Mood::Bad, "error".into()),
    };
    guest.sentence = report.reason.clone().or_else(|| report.matched.clone()).unwrap_or_default();
    let origin = report.config.iter().chain(&report.images);
    let origin: Vec<_> = origin.map(|p| p.display().to_string()).collect();
    guest.facts.push(("From", origin.join(", ")));
    if let Some(plan) = plan {
        add_plan(&mut guest, plan);
    }
    let marks = [("kernel", report.seconds_to_kernel), ("login", report.seconds_to_match)];
    guest.timeline = marks.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
    if report.seconds > 0.0 {
        guest.timeline.push(("end", report.seconds));
    }
    guest.checks = report
        .checks
        .iter()
        .map(|check| Checked {
            name: check.name.clone(),
            mood: match check.outcome {
                Outcome::Ok => Mood::Good,
                Outcome::Warn => Mood::Doubtful,
                Outcome::Fail => Mood::Bad,
            },
            word: check.outcome.as_str().into(),
            detail: check.detail.clone(),
        })
        .collect();
    guest.screenshot = picture(report.screenshot.as_deref());
    guest.console = tail(report.log.as_deref(), CONSOLE_MAX as u64)
        .or_else(|| (!report.tail.is_empty()).then(|| report.tail.join("\n").into_bytes()));
    guest.next = advice(report, &source_words(report));
    guest
}

/// The guest's source as arguments of a command.
fn source_words(report: &GuestReport) -> String {
    let quote = |path: &Path| crate::qemu::quote(path.as_os_str());
    match &report.config {
        Some(config) => format!("--config {}", quote(config)),
        None => report.images.iter().map(|p| quote(p)).collect::<Vec<_>>().join(" "),
    }
}

fn advice(report: &GuestReport, source: &str) -> Vec<(String, String)> {
    let say = |sentence: &str, command: String| (sentence.to_owned(), command);
    match (report.verdict, report.fault) {
        (Verdict::Passed, _) => vec![say("Write a disk that boots without synthdisk", {
            format!(
                "synthdisk finalize {source} -o {}.qcow2",
                crate::qemu::quote(report.guest.as_ref())
            )
        })],
        (_, Some(Fault::Host)) => {
            vec![say(
                "Nothing was learned about the guest; start the same command again with --resume",
                String::new(),
            )]
        }
        _ => {
            let mut all = vec![say(
                "See what is inside, and what synthdisk would change",
                format!("synthdisk inspect {source}"),
            )];
            if report.verdict == Verdict::Failed {
                all.push(say("Look at it on your terminal", format!("synthdisk run {source}")));
            }
            if report.reason.as_deref().is_some_and(|why| why.starts_with("not within")) {
                all.push(say(
                    "If the host is slow, give it more time with --timeout",
                    String::new(),
                ));
            }
            all
        }
    }
}

/// A guest that was inspected.
pub(super) fn inspected(report: &inspect::Report, plan: Option<&Plan>) -> Guest {
    let mut guest = empty(&report.name);
    (guest.mood, guest.verdict) = match report.verdict.answer {
        Answer::Boots => (Mood::Good, "boots".into()),
        Answer::BootsWithEdits => (Mood::Good, "boots with edits".into()),
        Answer::Unknown => (Mood::Doubtful, "unknown".into()),
        Answer::DoesNotBoot => (Mood::Bad, "does not boot".into()),
    };
    guest.sentence = report.verdict.text.clone();
    if let Some(name) = report.guest.as_ref().and_then(|g| g.distribution.as_ref()) {
        guest.facts.push(("Guest", name.name.clone()));
    }
    if let Some(plan) = plan {
        add_plan(&mut guest, plan);
    } else {
        guest.warnings = report.notes.clone();
    }
    guest.checks = report
        .checks
        .iter()
        .map(|check| {
            let word = check.outcome.word();
            let mood = match word {
                "ok" | "fixed" => Mood::Good,
                "fail" => Mood::Bad,
                _ => Mood::Doubtful,
            };
            Checked {
                name: check.name.into(),
                mood,
                word: word.into(),
                detail: check.detail.clone(),
            }
        })
        .collect();
    if let Some(advice) = &report.verdict.advice {
        guest.next.push((advice.clone(), String::new()));
    }
    guest
}
