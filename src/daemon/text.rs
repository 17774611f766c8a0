//! A report as text, for a person at a terminal. Guest text in it is cleaned.

use super::report::{BootReport, EditReport, MountReport, ReportedDisk};
use crate::layout::{TableKind, format_size};
use crate::text::in_a_line;
use std::fmt::Write;

impl MountReport {
    /// Disks, what boots, notes and edits, one fact per line. With `verbose`, also what was changed
    /// in the guest's command line.
    pub fn text(&self, verbose: bool) -> String {
        let mut out = String::new();
        let end = if self.uri.is_some() { "at the end" } else { "at unmount" };
        self.disks.iter().for_each(|disk| disk_lines(disk, end, &mut out));
        match &self.boot {
            BootReport::Kernel { title, kernel, initrds, cmdline, changes, .. } => {
                line(&mut out, "boots", title);
                line(&mut out, "kernel", kernel);
                initrds.iter().for_each(|initrd| line(&mut out, "initrd", initrd));
                line(&mut out, "cmdline", cmdline);
                let shown = changes.iter().filter(|_| verbose);
                shown.for_each(|change| line(&mut out, "note", change));
            }
            BootReport::OwnLoader { evidence } => {
                line(&mut out, "boots", &format!("by its own boot loader ({evidence})"));
            }
            BootReport::Nothing => line(&mut out, "boots", "nothing (no boot loader)"),
        }
        if verbose {
            line(&mut out, "sandbox", &self.sandbox.to_string());
        }
        self.warnings().iter().for_each(|note| line(&mut out, "note", note));
        out + &self.edits.text()
    }

    /// What the user should know whatever else is shown, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let warnings = match &self.boot {
            BootReport::Kernel { warnings, .. } => warnings.as_slice(),
            BootReport::OwnLoader { .. } | BootReport::Nothing => &[],
        };
        warnings.iter().chain(&self.notes).cloned().collect()
    }
}

impl EditReport {
    /// The edits, or why there are none, one per line.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        if let Some(uuid) = &self.root_uuid {
            let _ = writeln!(out, "adapted: root filesystem: UUID={}", in_a_line(uuid));
        }
        for (path, why) in &self.paths {
            let _ = writeln!(out, "adapted: {}: {}", in_a_line(path), in_a_line(why));
        }
        if self.more > 0 {
            let _ = writeln!(out, "adapted: and {} more paths", self.more);
        }
        self.notes().iter().for_each(|what| line(&mut out, "note", what));
        out
    }

    /// What was not edited, and why.
    pub fn notes(&self) -> Vec<String> {
        let failure =
            self.failure.iter().map(|why| format!("the guest is not adapted to KVM: {why}"));
        self.left_out.iter().cloned().chain(failure).collect()
    }
}

/// One line: its label in a column of its own, then the text.
fn line(out: &mut String, label: &str, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{:<8} {}", format!("{label}:"), in_a_line(text));
}

/// `end` says when a temporary overlay is removed.
fn disk_lines(disk: &ReportedDisk, end: &str, out: &mut String) {
    let mut text = format!("{} {}", disk.disk.file, format_size(disk.len));
    match (disk.table, disk.disk_id) {
        (Some(TableKind::Mbr), Some(id)) => text.push_str(&format!(", id {id:08x}")),
        (Some(TableKind::Gpt), _) => text.push_str(", GPT"),
        (_, _) => text.push_str(", as it is"),
    }
    for p in &disk.partitions {
        let what = p.kind.name();
        text.push_str(&format!(", part{} {what} {}", p.number, format_size(p.len)));
    }
    line(out, if disk.disk.cdrom { "cdrom" } else { "disk" }, &text);
    let writes = match (&disk.overlay, disk.disk.read_only) {
        (Some(path), _) => format!("kept in {}", path.display()),
        (None, false) => format!("temporary, gone {end}"),
        (None, true) => "refused".into(),
    };
    line(out, "writes", &writes);
}
