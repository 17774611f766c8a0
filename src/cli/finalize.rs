//! `synthdisk finalize`.

mod outputs;
mod print;

use super::args::SourceArgs;
use super::identity::IdentityArgs;
use super::mount::{adapt, files, not_adapted};
use super::printable::in_a_line;
use crate::disk::temporary_dir;
use crate::finalize::{
    Backing, Contents, Conversion, Destination, DiskRange, Input, LiveMount, LiveSnapshot,
    OpenFile, OutputFormat, Pending, Reflink, Request, SourceAccess, check_room, open_live_disk,
    shares_blocks, with_mount, write_converted, write_delta, write_raw,
};
use crate::plan::{OverlayChoice, Plan, PlannedDisk, SourceOptions, partition_file_name};
use crate::run::Stop;
use crate::{Error, ErrorKind, Result};
use clap::Args;
use outputs::{Disk, Output, choose};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Arguments of `finalize`.
#[derive(Debug, Args)]
pub(super) struct FinalizeArgs {
    /// Images of the guest's partitions (files or block devices, opened read-only), or the
    /// directory of a mount
    #[arg(value_name = "IMAGE... | MOUNTPOINT")]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    identity: IdentityArgs,

    /// Look through this overlay, which is only read
    #[arg(long, value_name = "FILE", conflicts_with = "overlay_dir")]
    overlay: Option<PathBuf>,

    /// As --overlay, with a file for each disk in this directory
    #[arg(long, value_name = "DIR")]
    overlay_dir: Option<PathBuf>,

    /// Write what differs from --backing when one looks through this overlay: a qcow2 file that
    /// boots over --backing without synthdisk
    #[arg(long, value_name = "FILE", requires = "backing")]
    #[arg(conflicts_with_all = ["overlay", "overlay_dir", "partition", "compress", "options"])]
    delta: Option<PathBuf>,

    /// The golden image under --delta: a disk that `finalize` wrote from the same images, raw or
    /// qcow2, which must not change any more
    #[arg(long, value_name = "FILE", requires = "delta")]
    backing: Option<PathBuf>,

    #[command(flatten)]
    result: ResultArgs,
}

/// What is written.
#[derive(Debug, Args)]
#[command(next_help_heading = "Result")]
struct ResultArgs {
    /// Write this file or block device; further disks of the guest go beside it (web1.raw,
    /// web1-b.raw). In a directory, each under the name that it has in a mount
    #[arg(short, long, value_name = "FILE|DIR/")]
    output: PathBuf,

    /// File format [default: what the output's name ends with (.qcow2, .vhd, .vhdx, .vmdk), else raw]
    #[arg(long, value_enum, conflicts_with = "delta")]
    format: Option<OutputFormat>,

    /// Compress (qcow2, vmdk)
    #[arg(long)]
    compress: bool,

    /// Options of the format, as `qemu-img convert -o` takes them
    #[arg(short = 'O', value_name = "KEY=VALUE")]
    options: Vec<String>,

    /// Write only this partition, which is an image for Xen again
    #[arg(long, value_name = "N")]
    partition: Option<u32>,

    /// Write only this disk: xvdb, or its name in a mount
    #[arg(long, value_name = "DISK")]
    disk: Option<String>,

    /// Share blocks with images and overlay (XFS, Btrfs and others), raw only
    #[arg(long, value_enum, default_value_t, value_name = "auto|always|never")]
    #[arg(hide_possible_values = true)]
    reflink: Reflink,

    /// Read back and compare
    #[arg(long)]
    verify: bool,

    /// Tell the SHA-256 of what was written
    #[arg(long)]
    checksum: bool,

    /// Tell nothing but errors and results
    #[arg(short, long)]
    quiet: bool,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl ResultArgs {
    /// The format that was named, or that the output's name stands for.
    fn format(&self) -> OutputFormat {
        self.format.unwrap_or_else(|| OutputFormat::of_name(&self.output))
    }
}

/// Write the disks out.
pub(super) fn run(args: FinalizeArgs) -> Result<()> {
    let mut result = args.result;
    if args.delta.is_some() {
        result.format = Some(OutputFormat::Qcow2);
    }
    let conversion = Conversion {
        format: result.format(),
        compress: result.compress,
        options: result.options.clone(),
    };
    conversion.check()?;
    if result.reflink == Reflink::Always && result.format() != OutputFormat::Raw {
        return Err(Error::new(
            ErrorKind::Usage,
            "--reflink always goes with --format raw: other formats have blocks of their own",
        ));
    }
    // Before there are other threads.
    let stop = Stop::on_signals()?;
    let live = match (&args.source.config, &args.paths[..]) {
        (None, [path]) => LiveMount::at(path)?,
        _ => None,
    };
    let overlay = match (args.overlay.or(args.delta), args.overlay_dir) {
        (Some(file), _) => Some(OverlayChoice::File(file)),
        (None, dir) => dir.map(OverlayChoice::Dir),
    };
    let force = args.source.force();
    let request = Request {
        conversion: &conversion,
        reflink: result.reflink,
        verify: result.verify,
        checksum: result.checksum,
        force,
        quiet: result.quiet,
        stop: &stop,
    };
    let pending = match live {
        Some(_) if overlay.is_some() => {
            let what = "a mount has its overlay already; leave out --overlay, or name the images";
            return Err(Error::new(ErrorKind::Usage, what));
        }
        Some(_) if args.identity.given().is_some() => {
            let what = "a mount's guest is who it is; give options like --hostname to the mount, or \
                        name the images";
            return Err(Error::new(ErrorKind::Usage, what));
        }
        Some(live) => write_live(&live, &result, &request)?,
        None => {
            let mut options = args.source.into_options(args.paths)?;
            options.identity = args.identity.read()?;
            let backing = args.backing.as_deref();
            write_planned(options, overlay, backing, &result, &request)?
        }
    };
    let written = pending.into_iter().map(Pending::publish).collect::<Result<Vec<_>>>()?;
    print::results(&written, result.json, result.quiet);
    Ok(())
}

/// Write disks that are put together here.
fn write_planned(
    options: SourceOptions,
    overlay: Option<OverlayChoice>,
    backing: Option<&Path>,
    result: &ResultArgs,
    request: &Request<'_>,
) -> Result<Vec<Pending>> {
    let scratch = scratch_dir(&result.output, result.reflink);
    let choice = match overlay {
        Some(below) => OverlayChoice::Over { below: Box::new(below), scratch },
        None => OverlayChoice::Temporary(scratch),
    };
    let mut plan = Plan::build(&options, &choice)?;
    let backing = backing.map(Backing::open).transpose()?;
    // With a golden image there is one overlay, and so one disk that it can be about.
    let over = backing.as_ref().and_then(|_| plan.disks.iter().position(|d| d.overlay.is_some()));
    if let Some(backing) = &backing {
        let nothing = "no disk of this guest can be written to, so it has no delta";
        let over = over.ok_or_else(|| Error::new(ErrorKind::Invalid, nothing))?;
        backing.check_same_base(&plan.disks[over].disk.table())?;
    }
    // It is about what a mount would boot.
    plan.boot = None;
    let must_adapt = !options.identity.is_empty();
    let mut sources = plan.images.clone();
    sources.extend(plan.disks.iter().filter_map(|d| d.overlay.clone()));
    sources.extend(options.kernel.into_iter().chain(options.initrds));
    let access = SourceAccess::of(&sources);
    sources.extend(backing.iter().map(|b| b.path().to_path_buf()));
    sources.extend(options.config);
    let chosen = plan.disks.iter().enumerate().filter(|(i, _)| over.is_none_or(|over| over == *i));
    let disks: Vec<_> = chosen.map(|(_, planned)| disk_of(planned)).collect();
    let mut outputs = choose(&disks, result, &sources, &access, request.force)?;
    if let Some(over) = over {
        outputs.iter_mut().for_each(|output| output.index = over);
    }
    let range_of = |output: &Output| {
        let planned = &plan.disks[output.index];
        match result.partition {
            None => Ok(DiskRange::whole(Arc::clone(&planned.disk))),
            Some(number) => partition(planned, number),
        }
    };
    let ranges = outputs.iter().map(range_of).collect::<Result<Vec<_>>>()?;
    // What a delta takes shows when it is made.
    if backing.is_none() && result.takes_all(outputs[0].target.dir()) && !request.force {
        let all = ranges.iter().map(|range| range as &dyn Contents);
        check_room(all.zip(outputs.iter().map(|output| &output.target)))?;
    }
    if !request.quiet {
        plan.notes.iter().for_each(|note| eprintln!("note:    {}", in_a_line(note)));
    }
    let adapt_in = |dir: &Path| {
        let said = match adapt(&plan.adaptation, dir) {
            // Nobody looks into a file that was written in the night.
            Err(e) if must_adapt || plan.adaptation.is_ok() => {
                let what = format!(
                    "the guest is not adapted to KVM: {e}; --adapt none writes the disk without"
                );
                return Err(Error::new(e.kind(), what));
            }
            // A guest that cannot be looked into boots as it is, here as in a mount.
            said => said.unwrap_or_else(|e| not_adapted(&e)),
        };
        if !request.quiet {
            eprint!("{said}");
        }
        Ok(())
    };
    if result.format() != OutputFormat::Raw && backing.is_none() {
        return with_mount(files(&plan), |dir| {
            adapt_in(dir)?;
            let one = |output: Output| {
                let file = output.file(dir, result.partition)?;
                let source =
                    File::open(dir.join(file)).map_err(|e| Error::io("cannot read the disk", e))?;
                write_converted(&source, output.target, true, request)
            };
            outputs.into_iter().map(one).collect()
        });
    }
    if !matches!(plan.adaptation, Ok(None)) {
        with_mount(files(&plan), adapt_in)?;
    }
    let one = |(range, output): (DiskRange, Output)| match &backing {
        Some(backing) => write_delta(&range, backing, output.target, request),
        None => write_raw(&Input::Disk(range), output.target, request),
    };
    ranges.into_iter().zip(outputs).map(one).collect()
}

impl ResultArgs {
    /// Whether each byte of data that goes to `dir` takes room there.
    fn takes_all(&self, dir: Option<&Path>) -> bool {
        let shares = self.format() == OutputFormat::Raw
            && self.reflink != Reflink::Never
            && dir.is_some_and(shares_blocks);
        !self.compress && !shares
    }
}

/// Write disks of a mount.
fn write_live(
    live: &LiveMount,
    result: &ResultArgs,
    request: &Request<'_>,
) -> Result<Vec<Pending>> {
    if result.reflink == Reflink::Always {
        let what = "a mount's disk has no blocks to share; name the images and the overlay (end the \
                    mount first), or leave out --reflink always";
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    let status = &live.status;
    let disks: Vec<_> =
        live.disks().into_iter().map(|d| Disk::new(d.file, d.vdev, d.cdrom)).collect();
    let mut sources = status.images.clone();
    sources.extend(status.overlays.iter().cloned());
    let access = SourceAccess::of(&sources);
    sources.extend(disks.iter().map(|d| live.dir.join(&d.file)));
    let outputs = choose(&disks, result, &sources, &access, request.force)?;
    // All of them are taken before the first is read, so that they show almost the same moment.
    let mut sources = Vec::new();
    for output in outputs {
        let file = output.file(&live.dir, result.partition)?;
        let shown = live.dir.join(&file);
        let shown = shown.display();
        let source = match live.writer(&disks[output.index].file)? {
            // Somebody may begin to. A mount of an older version has no snapshots, and there is only
            // one at a time.
            None => match LiveSnapshot::take(&live.dir, &file) {
                Ok(snapshot) => LiveSource::Snapshot(Arc::new(snapshot)),
                Err(_) => LiveSource::Still(open_live_disk(&live.dir, &file)?),
            },
            Some(writer) if !request.force => {
                let what = format!(
                    "{shown} may change meanwhile: {writer}; end it first, or use --force for a \
                     crash-consistent snapshot"
                );
                return Err(Error::new(ErrorKind::Busy, what));
            }
            Some(writer) => {
                if !request.quiet {
                    eprintln!("note:    {shown} is a crash-consistent snapshot: {writer}");
                }
                LiveSource::Snapshot(Arc::new(LiveSnapshot::take(&live.dir, &file)?))
            }
        };
        sources.push((source, output.target));
    }
    if result.takes_all(None) && !request.force {
        let all =
            sources.iter().map(|(source, _)| source.contents()).collect::<Result<Vec<_>>>()?;
        let all = all.iter().map(|file| file as &dyn Contents);
        check_room(all.zip(sources.iter().map(|(_, target)| target)))?;
    }
    sources.into_iter().map(|(source, target)| source.write(target, request)).collect()
}

/// A file of a mount, as it is to be read.
enum LiveSource {
    /// Nobody writes to it, it is hoped.
    Still(File),
    /// Somebody does, or may begin to.
    Snapshot(Arc<LiveSnapshot>),
}

impl LiveSource {
    /// Its bytes, by the same open file.
    fn contents(&self) -> Result<OpenFile> {
        let failed = |e| Error::io("cannot read the disk", e);
        match self {
            Self::Still(file) => OpenFile::new(file.try_clone().map_err(failed)?).map_err(failed),
            Self::Snapshot(snapshot) => snapshot.contents(),
        }
    }

    fn write(self, target: Destination, request: &Request<'_>) -> Result<Pending> {
        let raw = request.conversion.format == OutputFormat::Raw;
        match self {
            Self::Still(file) if raw => {
                let file = OpenFile::new(file).map_err(|e| Error::io("cannot read the disk", e))?;
                write_raw(&Input::File(file), target, request)
            }
            Self::Still(file) => write_converted(&file, target, false, request),
            Self::Snapshot(snapshot) => {
                let written = if raw {
                    write_raw(&Input::File(snapshot.contents()?), target, request)
                } else {
                    snapshot.with_file(|file| write_converted(file, target, true, request))
                };
                written.map_err(|e| snapshot.explain(e))
            }
        }
    }
}

fn disk_of(planned: &PlannedDisk) -> Disk {
    Disk::new(planned.file.clone(), planned.vdev.clone(), planned.cdrom)
}

impl Output {
    /// The name of what is written in the mount on `dir`.
    fn file(&self, dir: &Path, partition: Option<u32>) -> Result<String> {
        let Some(number) = partition else { return Ok(self.disk.clone()) };
        let file = partition_file_name(&self.disk, number);
        if dir.join(&file).exists() { Ok(file) } else { Err(no_partition(&self.disk, number)) }
    }
}

/// The bytes of a partition.
fn partition(planned: &PlannedDisk, number: u32) -> Result<DiskRange> {
    let placed = planned.layout.iter().flat_map(|l| &l.partitions).find(|p| p.number == number);
    let placed = placed.ok_or_else(|| no_partition(&planned.file, number))?;
    Ok(DiskRange::part(Arc::clone(&planned.disk), placed.start, placed.len))
}

fn no_partition(disk: &str, number: u32) -> Error {
    let what = format!("{disk} has no partition {number}; `synthdisk map` lists what it has");
    Error::new(ErrorKind::NotFound, what)
}

/// Where the temporary overlay goes: beside the target where its blocks can be shared.
fn scratch_dir(output: &Path, reflink: Reflink) -> PathBuf {
    let dir = if output.is_dir() { Some(output) } else { output.parent() };
    let dir = dir.map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir });
    let beside = dir.filter(|dir| reflink != Reflink::Never && shares_blocks(dir));
    beside.map_or_else(temporary_dir, Path::to_path_buf)
}
