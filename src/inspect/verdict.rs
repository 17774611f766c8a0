//! The verdict: the answer that users want first.

use super::partitions::{ContentReport, root_content};
use super::report::{Answer, EditReport, Outcome, Report, Verdict};
use crate::Error;
use crate::daemon::why_not_edited;
use crate::fs::boot_code::BootCode;
use crate::plan::Plan;
use crate::qemu::DiskBus;

fn no(text: impl Into<String>, advice: &str) -> Verdict {
    Verdict {
        answer: Answer::DoesNotBoot,
        text: format!("does not boot: {}", text.into()),
        advice: Some(advice.into()),
    }
}

/// The verdict on `report`; `failure` says why no boot could be planned.
pub(super) fn verdict(report: &Report, plan: &Plan, failure: Option<&Error>) -> Verdict {
    if let Some(e) = failure {
        // Most of these messages already say what can be done.
        return no(e.to_string(), "give a kernel with --kernel and --initrd, or fix what it says");
    }
    let Some(boot) = &plan.boot else {
        return match &plan.own_loader {
            Some(BootCode::Absent(why)) => no(why, "give the disk a loader with --bootloader"),
            Some(BootCode::Unknown(evidence)) => Verdict {
                answer: Answer::Unknown,
                text: format!("not known whether it boots: {evidence}"),
                advice: Some("try it, or replace that boot code with --bootloader direct".into()),
            },
            Some(BootCode::Present(evidence)) => {
                let files = files(&report.edits);
                let edits = match files.is_empty() {
                    true => String::new(),
                    false => format!(", with edits in {}", files.join(", ")),
                };
                let text = format!(
                    "boots by its own boot loader ({evidence}), which inspect does not follow{edits}"
                );
                let answer = if files.is_empty() { Answer::Boots } else { Answer::BootsWithEdits };
                Verdict { answer, text, advice: None }
            }
            None => no("it has no boot loader of ours", "leave out --bootloader none"),
        };
    };
    let failed = report.checks.iter().find(|c| c.outcome == Outcome::Fail);
    if let Some(check) = failed {
        let uuid = root(report, plan).and_then(|root| root.uuid.as_deref());
        return match (check.name, uuid) {
            ("root", Some(uuid)) => no(
                check.detail.clone(),
                &format!("name its root filesystem with --append root=UUID={uuid}"),
            ),
            _ => no(
                check.detail.clone(),
                "give a kernel that has the drivers, with --kernel and --initrd",
            ),
        };
    }
    let mut changes = Vec::new();
    let files = files(&report.edits);
    if !files.is_empty() {
        changes.push(format!("edits in {}", files.join(", ")));
    }
    if report.command_line.as_ref().is_some_and(|c| !c.changes.is_empty()) {
        changes.push("changes to its command line".into());
    }
    let mut advice = None;
    if boot.extra_initrd {
        let own = boot.initrds.len() > 1;
        let what = if own { "virtio drivers for its initrd" } else { "an initrd made for it" };
        changes.push(what.into());
    }
    let bus = boot.hardware.bus;
    if bus != DiskBus::default() {
        let bus = bus.name();
        changes.push(format!("its disk on {bus}"));
        advice = Some(format!("QEMU must offer the disk on {bus}, as `synthdisk run` does"));
    }
    if !plan.left_out.is_empty() {
        changes.push("edits left out that it needs".into());
    }
    if let Some(reason) = why_not_edited(plan).filter(|_| !files.is_empty()) {
        changes.retain(|change| !change.starts_with("edits in "));
        changes.push("edits left out that it needs".into());
        changes.dedup();
        advice.get_or_insert_with(|| format!("the edits are not made on this host: {reason}"));
    }
    let doubt = report.checks.iter().find(|c| c.outcome == Outcome::Unknown);
    if let Some(check) = doubt {
        let with = match changes.is_empty() {
            true => String::new(),
            false => format!("; if it does, then with {}", and(&changes)),
        };
        return Verdict {
            answer: Answer::Unknown,
            text: format!("not known whether it boots: {}{with}", check.detail),
            advice: advice
                .or_else(|| Some("try it; synthdisk run --expect says what happened".into())),
        };
    }
    match changes.is_empty() {
        true => Verdict { answer: Answer::Boots, text: "boots as it is".into(), advice },
        false => Verdict {
            answer: Answer::BootsWithEdits,
            text: format!("boots, with {}", and(&changes)),
            advice,
        },
    }
}

fn root<'a>(report: &'a Report, plan: &Plan) -> Option<&'a ContentReport> {
    root_content(&report.disks, &report.volumes, plan.root)
}

/// The files that are edited, each listed once, in the order of their edits.
fn files(edits: &[EditReport]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for edit in edits {
        if !out.contains(&edit.path) {
            out.push(edit.path.clone());
        }
    }
    const SHOWN: usize = 5;
    if out.len() > SHOWN + 1 {
        let more = out.len() - SHOWN;
        out.truncate(SHOWN);
        out.push(format!("{more} more files"));
    }
    out
}

fn and(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [head @ .., last] => format!("{} and {last}", head.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let of = |n: usize| and(&(0..n).map(|i| i.to_string()).collect::<Vec<_>>());
        assert_eq!([of(0), of(1), of(2), of(3)], ["", "0", "0 and 1", "0, 1 and 2"]);
        let edit = |path: usize| EditReport { path: format!("/{path}"), why: "".into(), step: "" };
        let edits: Vec<_> = (0..9).chain(0..9).map(edit).collect();
        assert_eq!(files(&edits), ["/0", "/1", "/2", "/3", "/4", "4 more files"]);
    }
}
