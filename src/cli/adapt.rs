//! `synthdisk adapt`.

use super::args::SourceArgs;
use super::identity::IdentityArgs;
use crate::daemon::{Background, ExportRequest, MountRequest};
use crate::edit::{Change, Edit, FileContent};
use crate::fuse::MountOptions;
use crate::plan::{OverlayChoice, Plan};
use crate::process::Stop;
use crate::run::once;
use crate::sandbox::Mode;
use crate::text::{in_a_line, printable};
use crate::{Error, ErrorKind, Result};
use clap::Args;
use similar::TextDiff;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

/// Arguments of `adapt`.
#[derive(Debug, Args)]
pub(super) struct AdaptArgs {
    /// Images of the guest's partitions: files or block devices, opened read-only; or one XVA
    #[arg(value_name = "IMAGE")]
    images: Vec<PathBuf>,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    identity: IdentityArgs,

    /// Make the edits in this overlay, created on first use; with --dry-run, only read it
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    #[arg(help_heading = "Overlay")]
    overlay: Option<PathBuf>,

    /// Print the edits as a unified diff and make none
    #[arg(long)]
    dry_run: bool,
}

/// Print the edits, or make them.
pub(super) fn run(args: AdaptArgs) -> Result<()> {
    if args.dry_run {
        return show(args);
    }
    let mut source = args.source.into_options(args.images)?;
    source.identity = args.identity.read()?;
    let request = MountRequest {
        source,
        // clap requires an overlay unless --dry-run is given.
        overlay: OverlayChoice::File(args.overlay.unwrap_or_default()),
        overlay_limit: None,
        export: ExportRequest::Mount(MountOptions::default()),
        sandbox: Mode::Auto,
        must_adapt: true,
        log: None,
        background: Background::Stay,
    };
    let report = once(&request, &Stop::on_signals()?)?;
    for note in report.warnings() {
        eprintln!("note:    {}", in_a_line(&note));
    }
    eprint!("{}", report.edits.text());
    if report.edits.is_empty() {
        eprintln!("nothing to adapt");
    }
    Ok(())
}

fn show(args: AdaptArgs) -> Result<()> {
    let overlay = match args.overlay {
        Some(path) if path.exists() => OverlayChoice::File(path),
        Some(path) => {
            let what = format!("overlay {} does not exist", path.display());
            return Err(Error::new(ErrorKind::NotFound, what));
        }
        None => OverlayChoice::Temporary(crate::disk::temporary_dir()),
    };
    let mut options = args.source.into_options(args.images)?;
    options.identity = args.identity.read()?;
    let plan = Plan::build(&options, &overlay)?;
    for note in &plan.notes {
        eprintln!("note:    {}", in_a_line(note));
    }
    if let Some(boot) = &plan.boot {
        for note in &boot.notes {
            eprintln!("command line: {}", in_a_line(note));
        }
    }
    let adaptation = plan.adaptation?;
    let uuid = adaptation.as_ref().and_then(|a| a.uuid.as_ref());
    if let Some(uuid) = uuid {
        eprintln!("root filesystem: UUID={uuid}");
    }
    let nothing = uuid.is_none();
    let edits = adaptation.map(|a| a.edits).unwrap_or_default();
    if edits.is_empty() && nothing {
        eprintln!("nothing to adapt");
    }
    let text: String = edits.iter().map(diff).collect();
    // `patch` needs the exact bytes; a terminal must not get control characters.
    let text = match std::io::stdout().is_terminal() {
        true => printable(&text),
        false => text.into(),
    };
    // A reader that exits early (head) does not count as an error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// An edit in git's format, which `patch -p1` and `git apply` accept.
pub(super) fn diff(edit: &Edit) -> String {
    let path = &edit.path;
    let mut out = format!("diff --git a{path} b{path}\n");
    // Writing to a String cannot fail.
    let _ = match &edit.change {
        Change::Rewrite { old, new } => write!(out, "{}", unified(old, new, path)),
        Change::Create { content, access } => {
            let _ = writeln!(out, "new file mode 100{:o}", access.mode & 0o7777);
            match content {
                FileContent::Bytes(new) => write!(out, "{}", unified(b"", new, path)),
                FileContent::HostFile(from) => writeln!(out, "Copied from {}", from.display()),
            }
        }
        Change::Symlink { target } => {
            let target = format!("{target}\n");
            let diff = unified(b"", target.trim_end().as_bytes(), path);
            write!(out, "new file mode 120000\n{diff}")
        }
        Change::MakeDir(access) => {
            return format!("New directory {path}, mode {:o}\n", access.mode);
        }
        Change::Remove => return format!("Removed {path}\n"),
    };
    out
}

/// The body of a diff. Bytes that are not UTF-8 show as `\u{fffd}`.
fn unified(old: &[u8], new: &[u8], path: &str) -> String {
    let (old_text, new_text) = (String::from_utf8_lossy(old), String::from_utf8_lossy(new));
    let from = if old.is_empty() { "/dev/null".to_owned() } else { format!("a{path}") };
    let diff = TextDiff::from_lines(&*old_text, &*new_text);
    diff.unified_diff().header(&from, &format!("b{path}")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edit::FileAccess;

    fn shown(path: &str, change: Change) -> String {
        diff(&Edit { path: path.into(), change, why: String::new(), step: "test" })
    }

    #[test]
    fn as_git_prints_it() {
        let change = Change::Rewrite { old: b"a\nb\n".into(), new: b"a\nc\n".into() };
        let expected = "diff --git a/etc/x b/etc/x\n--- a/etc/x\n+++ b/etc/x\n\
                        @@ -1,2 +1,2 @@\n a\n-b\n+c\n";
        assert_eq!(shown("/etc/x", change), expected);
        let content = FileContent::Bytes(b"new\n".into());
        let change = Change::Create { content, access: FileAccess::root(0o755) };
        let expected = "diff --git a/x b/x\nnew file mode 100755\n--- /dev/null\n+++ b/x\n\
                        @@ -0,0 +1 @@\n+new\n";
        assert_eq!(shown("/x", change), expected);
        let link = shown("/x", Change::Symlink { target: "/dev/null".into() });
        assert!(link.contains("120000") && link.contains("\n+/dev/null\n\\ No newline"), "{link}");
    }
}
