//! `synthdisk mount`.

use super::args::SourceArgs;
use super::detach::{self, Role};
use super::helper;
use super::identity::IdentityArgs;
use super::printable::{in_a_line, printable};
use crate::bytes::ReadAt;
use crate::disk::temporary_dir;
use crate::edit::Edit;
use crate::fuse::{
    FileSpec, MountOptions, Status, StatusDisk, check_mount_point, hold_signals, serve,
};
use crate::layout::{PartitionKind, TableKind, format_size};
use crate::plan::{Adaptation, OverlayChoice, Plan, PlannedDisk};
use crate::qemu::{Graphics, allowed_by_kernel};
use crate::run::machine::{GuestDisks, MachineOptions, describe};
use crate::xen::DomainConfig;
use crate::{Error, ErrorKind, Result};
use clap::{Args, Parser};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Arguments of `mount`.
#[derive(Debug, Args)]
pub(super) struct MountArgs {
    /// Images of the guest's partitions (files or block devices, opened read-only), then the
    /// directory to mount on
    #[arg(value_name = "IMAGE... MOUNTPOINT", required = true)]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    identity: IdentityArgs,

    /// Keep writes in this qcow2 file, created on first use; without it they are gone at unmount
    #[arg(long, value_name = "FILE", conflicts_with = "read_only")]
    overlay: Option<PathBuf>,

    /// As --overlay, with a file for each disk in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["overlay", "read_only"])]
    overlay_dir: Option<PathBuf>,

    /// Refuse all writes
    #[arg(long)]
    read_only: bool,

    /// Mount options: allow_other, ro, uid=N, gid=N, umask=N, default_permissions, and any of the
    /// long options as name=value
    #[arg(short, long = "options", value_name = "OPTIONS")]
    o: Vec<OsString>,

    /// Stay in the foreground
    #[arg(short, long)]
    foreground: bool,

    /// Append messages about errors while serving to this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// Print what was changed in the guest's command line, and why
    #[arg(short, long)]
    verbose: bool,

    /// A guest that cannot be adapted is an error
    #[arg(long, hide = true)]
    must_adapt: bool,
}

/// For parsing the arguments once more, with what `-o` stands for added.
#[derive(Debug, Parser)]
struct Again {
    #[command(flatten)]
    mount: MountArgs,
}

impl MountArgs {
    /// The mount's own options, with all others of `-o` turned into the arguments they stand for.
    fn resolve(mut self) -> Result<(Self, MountOptions)> {
        let mut options = MountOptions::default();
        let mut words = Vec::new();
        for list in std::mem::take(&mut self.o) {
            helper::add_options(&list, &mut words)?;
        }
        let mut own = Vec::new();
        let mut long = Vec::new();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            if word == "-o" { own.extend(words.next()) } else { long.push(word) }
        }
        for option in own.iter().flat_map(|o| o.to_str().unwrap_or_default().split(',')) {
            options.take(option)?;
        }
        if !long.is_empty() {
            use clap::FromArgMatches;
            let matches = <Again as clap::CommandFactory>::command()
                .mut_args(|a| a.required(false))
                .no_binary_name(true)
                .try_get_matches_from(long)
                .map_err(|e| Error::with_source(ErrorKind::Usage, "in -o", e))?;
            self.update_from_arg_matches(&matches)
                .map_err(|e| Error::with_source(ErrorKind::Usage, "in -o", e))?;
        }
        options.read_only |= self.read_only;
        if options.read_only && (self.overlay.is_some() || self.overlay_dir.is_some()) {
            return Err(Error::new(
                ErrorKind::Usage,
                "a read-only mount writes to no overlay; leave out one of the two",
            ));
        }
        if let Some(option) = self.identity.given().filter(|_| options.read_only) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "{option} edits the guest in an overlay, and a read-only mount has none; leave \
                     out one of the two"
                ),
            ));
        }
        Ok((self, options))
    }
}

/// Mount, and return once the mount is usable (or has ended, with `--foreground`).
pub(super) fn run(args: MountArgs) -> Result<()> {
    let (args, options) = args.resolve()?;
    if !args.foreground {
        if let Role::Done(code) = detach::start()? {
            std::process::exit(code);
        }
    }
    hold_signals()?;
    start_log(args.log.as_deref())?;
    let shown_source = shown_source(&args.source.config, &args.paths);
    let mut images = args.paths;
    // clap has seen to it that there is one path at least.
    let mountpoint = images.pop().unwrap_or_default();
    let mut source = args.source.into_options(images)?;
    source.identity = args.identity.read()?;
    // That the guest is who it should be is no detail.
    let must_adapt = args.must_adapt || !source.identity.is_empty();
    let target = check_mount_point(&mountpoint)?;
    let overlay = match (args.overlay, args.overlay_dir) {
        (Some(path), _) => OverlayChoice::File(path),
        (None, Some(dir)) => OverlayChoice::Dir(dir),
        (None, None) if options.read_only => OverlayChoice::ReadOnly,
        (None, None) => OverlayChoice::Temporary(temporary_dir()),
    };
    let mut plan = Plan::build(&source, &overlay)?;
    let status = status(&plan, options.read_only);
    let files = files(&plan);
    let summary = summary(&plan, args.verbose);
    let hardware = plan.boot.as_ref().map(|boot| boot.hardware).unwrap_or_default();
    let domain = source.config.as_deref().map(DomainConfig::load).transpose()?;
    let name = plan.name.clone();
    // The summary is about the plan; what serves needs only the disk.
    plan.boot = None;
    let shown_at = mountpoint;
    serve(files, &status, &shown_source, &target, &options, || {
        let adapted = match adapt(&plan.adaptation, &target) {
            Err(e) if must_adapt => return Err(e),
            Err(e) => not_adapted(&e),
            Ok(said) => said,
        };
        plan.keep();
        drop(plan);
        let disk = shown_at.join("disk.raw");
        let guest =
            GuestDisks { dir: &target, disks: &status.disks, bus: hardware.bus, nic: hardware.nic };
        let options = MachineOptions {
            graphics: Some(Graphics::Headless),
            aio: allowed_by_kernel(),
            ..MachineOptions::default()
        };
        let machine = describe(&name, domain.as_ref(), guest, &options);
        let try_it = machine.short_line(Path::new("qemu-system-x86_64"));
        // Closed output is no reason to give up a mount that works.
        let said = format!("{summary}{adapted}try it:  {try_it}");
        let _ = writeln!(std::io::stderr(), "{}", printable(&said));
        let _ = writeln!(std::io::stdout(), "{}", disk.display());
        detach::finish()
    })
}

/// What `mount` lists as the source: the config or the first image.
fn shown_source(config: &Option<PathBuf>, paths: &[PathBuf]) -> String {
    let path = config.as_ref().or(paths.first()).cloned().unwrap_or_default();
    path.canonicalize().unwrap_or(path).display().to_string()
}

fn start_log(path: Option<&Path>) -> Result<()> {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("SYNTHDISK_LOG").unwrap_or_else(|_| "warn".into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    match path {
        Some(path) => {
            let file = File::options().append(true).create(true).open(path);
            let file =
                file.map_err(|e| Error::io(format!("cannot open the log {}", path.display()), e))?;
            builder.with_writer(Arc::new(file)).init();
        }
        None => builder.with_writer(std::io::stderr).init(),
    }
    Ok(())
}

/// What the mount will say of itself.
fn status(plan: &Plan, read_only: bool) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        images: plan.images.clone(),
        overlays: plan.disks.iter().filter_map(|d| d.overlay.clone()).collect(),
        read_only,
        disks: status_disks(plan),
        bus: plan.boot.as_ref().map(|boot| boot.hardware.bus.name().into()),
        nic: plan.boot.as_ref().map(|boot| boot.hardware.nic.name().into()),
    }
}

/// What to say of a guest that could not be edited.
pub(super) fn not_adapted(e: &Error) -> String {
    format!("note:    the guest is not adapted to KVM: {e}\n")
}

/// Edit the guest through the mount; returns what to say about it.
pub(super) fn adapt(adaptation: &Result<Option<Adaptation>>, mountpoint: &Path) -> Result<String> {
    let adaptation = match adaptation {
        Ok(Some(adaptation)) => adaptation,
        Ok(None) => return Ok(String::new()),
        Err(e) => return Err(Error::new(e.kind(), e.to_string())),
    };
    adaptation.apply(mountpoint)?;
    let mut said: String = adaptation
        .uuid
        .iter()
        .map(|uuid| format!("adapted: root filesystem: UUID={uuid}\n"))
        .collect();
    let line = |e: &Edit| format!("adapted: {}: {}\n", in_a_line(&e.path), in_a_line(&e.why));
    said.extend(adaptation.edits.iter().take(MOST_NAMED).map(line));
    if let Some(more) = adaptation.edits.len().checked_sub(MOST_NAMED).filter(|n| *n > 0) {
        said.push_str(&format!("adapted: and {more} paths more\n"));
    }
    Ok(said)
}

/// Edits that are named one by one, at most: a directory that is copied in may have thousands.
const MOST_NAMED: usize = 100;

/// Each disk as a whole, then its partitions by their numbers.
pub(super) fn files(plan: &Plan) -> Vec<FileSpec> {
    let mut files = Vec::new();
    for planned in &plan.disks {
        let mut add = |name: String, start, len| {
            files.push(FileSpec { name, disk: Arc::clone(&planned.disk), start, len });
        };
        add(planned.file.clone(), 0, planned.disk.len());
        for p in planned.layout.iter().flat_map(|l| &l.partitions) {
            add(planned.partition_file(p.number), p.start, p.len);
        }
    }
    files
}

/// What was made, for a person.
fn summary(plan: &Plan, verbose: bool) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    // Writing to a String cannot fail.
    for planned in &plan.disks {
        let size = format_size(planned.disk.len());
        let label = if planned.cdrom { "cdrom:  " } else { "disk:   " };
        let _ = write!(out, "{label} {} {size}", planned.file);
        match (planned.ids, &planned.layout) {
            (Some(ids), Some(layout)) => {
                let _ = match layout.table {
                    TableKind::Mbr => write!(out, ", id {:08x}", ids.disk_id),
                    TableKind::Gpt => write!(out, ", GPT"),
                };
                for p in &layout.partitions {
                    let what = match p.kind {
                        PartitionKind::Linux => "linux",
                        PartitionKind::Swap => "swap",
                    };
                    let _ = write!(out, ", part{} {what} {}", p.number, format_size(p.len));
                }
            }
            _ => {
                let _ = write!(out, ", as it is");
            }
        }
        let writes = match (&planned.overlay, planned.disk.is_read_only()) {
            (Some(path), _) => format!("kept in {}", path.display()),
            (None, false) => "temporary, gone at unmount".into(),
            (None, true) => "refused".into(),
        };
        let _ = writeln!(out, "\nwrites:  {writes}");
    }
    match &plan.boot {
        Some(boot) => {
            let _ = writeln!(out, "boots:   {}", boot.title);
            let _ = writeln!(out, "kernel:  {}", boot.kernel);
            for initrd in &boot.initrds {
                let _ = writeln!(out, "initrd:  {initrd}");
            }
            let _ = writeln!(out, "cmdline: {}", boot.cmdline);
            for note in boot.warnings.iter().chain(boot.notes.iter().filter(|_| verbose)) {
                let _ = writeln!(out, "note:    {note}");
            }
        }
        None if plan.disks[0].layout.is_some() => {
            let _ = writeln!(out, "boots:   nothing (no boot loader)");
        }
        None => {
            let _ = writeln!(out, "boots:   by its own boot loader");
        }
    }
    for note in &plan.notes {
        let _ = writeln!(out, "note:    {note}");
    }
    out
}

/// The files of a plan's disks and what they are, as a mount's status lists them.
pub(super) fn status_disks(plan: &Plan) -> Vec<StatusDisk> {
    let disk = |d: &PlannedDisk| StatusDisk {
        file: d.file.clone(),
        vdev: d.vdev.clone(),
        cdrom: d.cdrom,
        read_only: d.disk.is_read_only(),
    };
    plan.disks.iter().map(disk).collect()
}
