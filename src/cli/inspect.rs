//! `synthdisk inspect`.

use super::args::SourceArgs;
use super::pages;
use crate::guest::drivers::{Driver, Place};
use crate::image::ImageFile;
use crate::inspect::{
    ContentReport, DiskReport, InitrdReport, Journal, KernelFormat, KernelReport, PartitionReport,
    Report, VolumeReport, inspect,
};
use crate::layout::format_size;
use crate::plan::{OverlayChoice, Plan};
use crate::text::{in_a_line, printable};
use crate::{Error, ErrorKind, Result};
use clap::Args;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::path::PathBuf;

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Images of the guest's partitions: files or block devices, opened read-only; or one XVA
    #[arg(value_name = "IMAGE")]
    images: Vec<PathBuf>,

    #[command(flatten)]
    source: SourceArgs,

    /// Include the writes in this overlay, which must exist
    #[arg(long, value_name = "FILE", help_heading = "Overlay")]
    overlay: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Also write the report as a page to this file: HTML that needs nothing else
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Print the report on a guest.
pub(super) fn run(args: InspectArgs) -> Result<()> {
    let overlay = match args.overlay {
        Some(path) if path.exists() => OverlayChoice::File(path),
        Some(path) => {
            let what = format!("overlay {} does not exist", path.display());
            return Err(Error::new(ErrorKind::NotFound, what));
        }
        None => OverlayChoice::Temporary(crate::disk::temporary_dir()),
    };
    let options = args.source.into_options(args.images)?;
    let report = inspect(&options, &overlay)?;
    if let Some(path) = &args.report {
        let plan = Plan::build(&options, &overlay).ok();
        pages::write(path, &report.name, &[pages::inspected(&report, plan.as_ref())])?;
    }
    let text = match args.json {
        true => {
            let failed = |e: serde_json::Error| Error::io("cannot print the report", e.into());
            serde_json::to_string_pretty(&report).map_err(failed)? + "\n"
        }
        false => {
            let mut text = String::new();
            // Writing to a String cannot fail.
            let _ = print(&report, &mut text);
            printable(&text).into_owned()
        }
    };
    // A reader that exits early (head) does not count as an error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn print(report: &Report, out: &mut String) -> fmt::Result {
    writeln!(out, "{}: {}", report.name, report.verdict.text)?;
    if let Some(advice) = &report.verdict.advice {
        writeln!(out, "  {advice}")?;
    }
    writeln!(out)?;
    for disk in &report.disks {
        print_disk(disk, out)?;
    }
    for volume in &report.volumes {
        let VolumeReport { file, content, size, .. } = volume;
        write!(out, "volume   {file}  {} {}", content.kind, format_size(*size))?;
        print_content(content, out)?;
    }
    if let Some(guest) = &report.guest {
        let or = |text: Option<String>| text.unwrap_or_else(|| "unknown".into());
        let name = guest.distribution.as_ref().map(|d| d.name.clone());
        writeln!(out, "guest    {}", or(name))?;
        let (arch, init) = (or(guest.architecture.clone()), or(guest.init.map(|i| i.to_string())));
        write!(out, "         {arch}, init {init}")?;
        if let Some(hostname) = &guest.hostname {
            write!(out, ", hostname {}", in_a_line(hostname))?;
        }
        writeln!(out)?;
    }
    if let Some(menu) = &report.menu {
        writeln!(out, "menu     {} ({})", menu.path, menu.format)?;
        for (i, entry) in menu.entries.iter().enumerate() {
            let mark = if entry.default { '*' } else { ' ' };
            writeln!(out, "       {mark} {i}  {}", entry.title)?;
        }
    }
    for kernel in &report.kernels {
        print_kernel(kernel, out)?;
    }
    if let Some(cmdline) = &report.command_line {
        if let Some(guest) = &cmdline.guest {
            writeln!(out, "cmdline  {guest}")?;
        }
        writeln!(out, "  boots  {}", cmdline.boots)?;
    }
    writeln!(out)?;
    for check in &report.checks {
        writeln!(out, "{:<7}  {:<12} {}", check.outcome.word(), check.name, check.detail)?;
    }
    if !report.edits.is_empty() {
        writeln!(out)?;
    }
    for edit in &report.edits {
        writeln!(out, "edit     {}: {}", edit.path, edit.why)?;
    }
    report.notes.iter().try_for_each(|note| writeln!(out, "note     {note}"))
}

fn print_disk(disk: &DiskReport, out: &mut String) -> fmt::Result {
    let DiskReport { file, vdev, table, .. } = disk;
    writeln!(out, "disk     {file} ({vdev}) {}, {table}", format_size(disk.size))?;
    disk.partitions.iter().try_for_each(|p| print_partition(p, out))
}

fn print_partition(p: &PartitionReport, out: &mut String) -> fmt::Result {
    match p.number {
        0 => write!(out, "         {}", p.content.kind)?,
        n => write!(out, "  part{n}  {} {}", p.content.kind, format_size(p.size))?,
    }
    print_content(&p.content, out)?;
    match ImageFile::describe(&p.image_files) {
        Some(files) => writeln!(out, "         from {files}"),
        None => Ok(()),
    }
}

fn print_content(content: &ContentReport, out: &mut String) -> fmt::Result {
    if let Some(usage) = content.usage {
        // A superblock may claim a size of 0.
        let percent = usage.used.saturating_mul(100).checked_div(usage.size).unwrap_or(0);
        write!(out, ", {percent} % used")?;
    }
    match content.journal {
        Some(Journal::Dirty) => write!(out, ", journal dirty")?,
        Some(Journal::Clean) => write!(out, ", clean")?,
        Some(Journal::Errors) => write!(out, ", with errors")?,
        None => {}
    }
    for (key, value) in [("UUID", &content.uuid), ("label", &content.label)] {
        if let Some(value) = value {
            write!(out, ", {key} {}", in_a_line(value))?;
        }
    }
    writeln!(out)
}

fn print_kernel(kernel: &KernelReport, out: &mut String) -> fmt::Result {
    let version = kernel.version.as_deref().unwrap_or("version unknown");
    let mark = if kernel.default { '*' } else { ' ' };
    let format = match kernel.format {
        KernelFormat::Bzimage => "",
        KernelFormat::PvOnly => ", for Xen PV only",
        KernelFormat::Unknown => ", no kernel that can be read",
    };
    writeln!(out, "kernel {mark} {} ({version}{format})", kernel.path)?;
    kernel.initrds.iter().try_for_each(|initrd| print_initrd(initrd, out))?;
    for (place, word) in [
        (Place::Builtin, "built in"),
        (Place::Initrd, "in initrd"),
        (Place::Module, "as module"),
        (Place::Missing, "missing"),
    ] {
        let here = |d: &&Driver| d.place == place;
        let names: Vec<&str> = kernel.drivers.drivers.iter().filter(here).map(|d| d.name).collect();
        if !names.is_empty() && kernel.default {
            writeln!(out, "         {word:<9} {}", names.join(" "))?;
        }
    }
    Ok(())
}

fn print_initrd(initrd: &InitrdReport, out: &mut String) -> fmt::Result {
    let Some(contents) = &initrd.contents else {
        return writeln!(out, "  initrd {} cannot be read", initrd.path);
    };
    write!(out, "  initrd {} ({}", initrd.path, format_size(initrd.size))?;
    for segment in &contents.segments {
        let what = match segment.kind {
            crate::initrd::SegmentKind::Microcode => "microcode",
            crate::initrd::SegmentKind::Main => "files",
        };
        write!(out, "; {what}, {}", segment.compression.name())?;
    }
    writeln!(out, "; made by {})", contents.generator.name())?;
    match &contents.problem {
        Some(problem) => writeln!(out, "         {problem}"),
        None => Ok(()),
    }
}
