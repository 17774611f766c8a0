//! `synthdisk run`, and the internal processes that synthdisk starts itself.

mod args;
mod batch;

pub(super) use args::RunArgs;

use super::args::without_secrets;
use crate::daemon::{
    Background, Channel, EditReport, ExportRequest, MountReport, MountRequest, NbdRequest,
};
use crate::disk::temporary_dir;
use crate::export::status_disks;
use crate::fuse::{MountOptions, why_unavailable};
use crate::identity::Identity;
use crate::image::Xva;
use crate::nbd::{Encryption, NbdAddress};
use crate::plan::{OverlayChoice, Plan, SourceOptions};
use crate::process::{self, NamedInode, Stop, Swept};
use crate::qemu::{Accel, Aio, Board, Launch, Serial, find_qemu, probe, probe_aio};
use crate::run::check::Check;
use crate::run::machine::{DiskPlace, GuestDisks, check_buses, describe};
use crate::run::results::before_any_guest;
use crate::run::{Job, Mode, Verdict, boot};
use crate::xen::DomainConfig;
use crate::{Error, ErrorKind, Result};
use args::{AccelChoice, AioChoice, ExportChoice};
use clap::Subcommand;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// A working KVM answers in a tenth of this time.
const PROBE: Duration = Duration::from_secs(2);

/// Stands for a directory that does not exist yet, in the output of `--dry-run`.
const PLACEHOLDER: &str = "MOUNTPOINT";

/// Stands for a socket that does not exist yet.
const SOCKET_PLACEHOLDER: &str = "SOCKET";

/// Subcommands that only this program starts.
#[derive(Debug, Subcommand)]
pub(super) enum Internal {
    /// Execute another program, which gets a signal when the parent ends
    Exec {
        #[arg(long, value_parser = Signal::from_str)]
        signal: Signal,
        #[arg(long)]
        parent: i32,
        #[arg(long)]
        keep_mask: bool,
        #[arg(last = true, required = true)]
        words: Vec<OsString>,
    },
    /// Mount a partition in a private namespace and edit it as standard input requests
    EditMounted,
    /// Remove what is named once standard input ends
    Sweep {
        #[arg(long)]
        mount: Option<PathBuf>,
        #[arg(long, requires = "target")]
        mount_id: Option<u64>,
        #[arg(long)]
        target: Option<PathBuf>,
        #[arg(long)]
        temporary: Option<PathBuf>,
        #[arg(long, requires_all = ["device", "inode"])]
        name: Option<PathBuf>,
        #[arg(long)]
        device: Option<u64>,
        #[arg(long)]
        inode: Option<u64>,
    },
    /// Mount as requested by the process at the other end of standard input
    Mount { mountpoint: PathBuf },
    /// Serve a mount that the process at the other end of standard input keeps
    Serve,
    /// Examine a guest for the process at the other end of standard input
    Parse,
    /// Fetch an image for the process at the other end of standard input
    Fetch,
    /// Keep a mount while standard input is open
    Keep {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        terminal: bool,
    },
}

/// The processes that `run` and other commands start.
pub(super) fn internal(args: Internal) -> Result<()> {
    match args {
        Internal::Exec { signal, parent, keep_mask, words } => {
            crate::process::exec(signal, parent, keep_mask, &words)
        }
        Internal::EditMounted => crate::edit::kernel_driver::run_job(),
        Internal::Sweep { mount, mount_id, target, temporary, name, device, inode } => {
            let attached = mount_id.zip(target);
            let name = name.zip(device.zip(inode));
            let name = name.map(|(path, (device, inode))| NamedInode { path, device, inode });
            process::sweep(&Swept { mount, attached, temporary, name })
        }
        Internal::Mount { mountpoint } => super::mount::internal(&mountpoint),
        Internal::Serve => crate::daemon::serve(),
        Internal::Parse => super::parse::internal(),
        Internal::Fetch => super::fetch::internal(),
        Internal::Keep { dir, terminal } => {
            let mut channel = Channel::from_stdout()?;
            crate::run::keep(&dir, terminal).or_else(|e| super::mount::answered(&mut channel, e))
        }
    }
}

/// A guest, as named on the command line.
struct Guest {
    name: String,
    config: Option<PathBuf>,
    domain: Result<Option<DomainConfig>>,
    /// The source of its disks; files with its identity are read when it is mounted.
    source: SourceOptions,
}

/// Run the guest or the guests.
pub(super) fn run(mut args: RunArgs) -> Result<()> {
    args.read_list()?;
    args.check();
    args.test.prepare_report()?;
    args.images = without_secrets(args.images, &mut args.options.urls)?;
    let mut guests = guests(&args);
    if !args.is_test() || args.dry_run {
        // With one guest, or for a dry run, the first error ends the command.
        for guest in &mut guests {
            if guest.domain.is_err() {
                return std::mem::replace(&mut guest.domain, Ok(None)).map(drop);
            }
        }
    }
    let qemu = match &args.machine.qemu {
        Some(named) => Some(named_qemu(named).map_err(Error::of_host)?),
        None => find_qemu(),
    };
    if args.dry_run {
        return dry_run(&args, &guests, qemu);
    }
    let qemu = qemu.ok_or_else(no_qemu).map_err(Error::of_host)?;
    let stop = Stop::on_signals()?;
    let host = host(&args, &qemu);
    if let Some(text) = &args.test.expected() {
        // What is of no single guest ends the command before there is a result.
        let check = args.test.checks().map_err(before_any_guest)?;
        let identity = args.identity.read().map_err(before_any_guest)?;
        check.iter().try_for_each(|check| check.add_to(&mut identity.clone()))?;
        let fleet = guests.len();
        let mine = |position| args.test.shard.is_none_or(|shard| shard.has(position));
        let guests = guests.into_iter().enumerate().filter(|(position, _)| mine(*position));
        let origins = guests.map(|(position, guest)| (origin(position, &guest), guest));
        let origins: Vec<_> = origins.collect();
        let sources = origins.iter().map(|(origin, guest)| (origin.number, guest.source.clone()));
        let sources = match args.test.report {
            Some(_) => sources.collect(),
            None => BTreeMap::new(),
        };
        let batch = batch::Batch::new(&args, text, check.as_ref(), fleet);
        let mut batch = batch.map_err(before_any_guest)?;
        let left: Vec<_> =
            origins.into_iter().filter(|(origin, _)| !batch.is_done(origin)).collect();
        let jobs = left.into_iter().map(|(origin, guest)| {
            let check = check.as_ref().map(Check::for_another);
            (origin, job(&args, guest, identity.clone(), check, &qemu, host))
        });
        return batch.run(jobs.collect(), &sources, &stop);
    }
    let Some(guest) = guests.into_iter().next() else { return Ok(()) };
    let job = job(&args, guest, args.identity.read()?, None, &qemu, host)?;
    let report = boot(&job, &Mode::Terminal, &stop)?;
    debug_assert_eq!(report.verdict, Verdict::Ended);
    Ok(())
}

/// The QEMU that the user named: a path, or the name of a program of the system.
fn named_qemu(named: &Path) -> Result<PathBuf> {
    let found = match named.to_str().filter(|name| !name.contains('/')) {
        Some(name) => process::find_program(name),
        None => Some(named.to_owned()).filter(|path| process::is_program(path)),
    };
    found.ok_or_else(|| {
        let what = format!("cannot start {}: it is not an executable file", named.display());
        Error::new(ErrorKind::NotFound, what)
    })
}

fn no_qemu() -> Error {
    Error::new(
        ErrorKind::NotFound,
        "no QEMU for x86-64 guests found (qemu-system-x86_64); install the package \
         qemu-system-x86, or name it with --qemu",
    )
}

/// The guests in the order given, each with a unique name.
fn guests(args: &RunArgs) -> Vec<Guest> {
    let mut out: Vec<Guest> = Vec::new();
    let mut add = |config: Option<&PathBuf>| {
        let domain = config.map(|path| DomainConfig::load(path)).transpose();
        let known = domain.as_ref().ok().and_then(Option::as_ref);
        let file = config.or(args.images.first()).map(PathBuf::as_path);
        let named = args.identity.hostname.as_ref().map(ToString::to_string);
        let wanted = named.unwrap_or_else(|| guest_name(known, file.unwrap_or(Path::new("guest"))));
        // Names are used for files and in rows of a table.
        let wanted = wanted.replace(|c: char| c == '/' || c.is_control(), "_");
        let wanted = if wanted.starts_with('.') { format!("_{wanted}") } else { wanted };
        let names = (2..).map(|n| format!("{wanted}-{n}"));
        let name = std::iter::once(wanted.clone())
            .chain(names)
            .find(|name| out.iter().all(|g| g.name != *name))
            .unwrap_or(wanted);
        let images = if config.is_none() { args.images.clone() } else { Vec::new() };
        let mut source = SourceOptions { images, config: config.cloned(), ..args.options.clone() };
        if args.settle.request(false).is_some() {
            // The file boots by itself, as one that `finalize` writes.
            if let Some(why) = super::finalize::prefer_grub(&mut source) {
                let frozen = super::finalize::frozen_kernel("direct").unwrap_or_default();
                eprintln!("warning: {frozen} ({why})");
            }
        }
        out.push(Guest { name, config: config.cloned(), domain, source });
    };
    if args.config.is_empty() {
        // An XVA describes its guest, as a config does.
        add(args.images.first().filter(|path| args.images.len() == 1 && Xva::is_meant(path)));
    }
    args.config.iter().for_each(|path| add(Some(path)));
    out
}

/// The config's `name`, else the file name without its extension.
pub(super) fn guest_name(domain: Option<&DomainConfig>, file: &Path) -> String {
    let stem = || file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = domain.and_then(|d| d.name.clone()).filter(|name| !name.trim().is_empty());
    name.or_else(stem).unwrap_or_else(|| "guest".into())
}

/// Where a guest comes from, which its result tells even if there is no job for it.
fn origin(position: usize, guest: &Guest) -> batch::Origin {
    batch::Origin {
        number: u32::try_from(position + 1).unwrap_or(u32::MAX),
        name: guest.name.clone(),
        config: guest.config.clone(),
        images: guest.source.images.clone(),
    }
}

/// The job for a guest.
fn job(
    args: &RunArgs,
    guest: Guest,
    mut identity: Identity,
    check: Option<Check>,
    qemu: &Path,
    host: Host,
) -> Result<Job> {
    let several = args.is_fleet();
    let overlay = match (&args.overlay, &args.overlay_dir) {
        (Some(path), _) => OverlayChoice::File(path.clone()),
        (None, Some(dir)) => {
            let dir = if several { dir.join(&guest.name) } else { dir.clone() };
            std::fs::create_dir_all(&dir).map_err(|e| {
                Error::io(format!("cannot create the directory {}", dir.display()), e).of_host()
            })?;
            OverlayChoice::Dir(dir)
        }
        (None, None) if args.read_only => OverlayChoice::ReadOnly,
        (None, None) => OverlayChoice::Temporary(temporary_dir()),
    };
    check.iter().try_for_each(|check| check.add_to(&mut identity))?;
    let source = SourceOptions { identity, ..guest.source };
    let export = match host.export {
        ExportChoice::Fuse => {
            let mut options = MountOptions::default();
            options.read_only = args.read_only;
            ExportRequest::Mount(options)
        }
        // The process that makes the private directory puts the socket there.
        ExportChoice::Nbd => ExportRequest::Nbd(NbdRequest {
            address: NbdAddress::Unix(PathBuf::new()),
            encryption: Encryption::None,
            certificates: None,
            read_only: args.read_only,
        }),
    };
    let mount = MountRequest {
        must_adapt: !source.identity.is_empty(),
        source,
        overlay,
        overlay_limit: args.overlay_limit,
        export,
        sandbox: args.sandbox,
        log: None,
        background: Background::Stay,
    };
    Ok(Job {
        domain: guest.domain?,
        mount,
        qemu: qemu.into(),
        accel: host.accel,
        machine: args.machine.options(host.aio),
        settle: args.settle.request(args.options.force),
        extra_args: args.qemu_args.clone(),
        log: own_file(args, args.test.log.as_deref(), &guest.name, "log")?,
        check,
        screenshot: own_file(args, args.test.screenshot.as_deref(), &guest.name, "png")?,
        verbose: args.verbose,
        name: guest.name,
    })
}

/// A file for one guest, such as the log of its console. For several guests the option names a
/// directory; for one guest it may be a directory.
fn own_file(
    args: &RunArgs,
    named: Option<&Path>,
    name: &str,
    extension: &str,
) -> Result<Option<PathBuf>> {
    let Some(path) = named else { return Ok(None) };
    let named_dir = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if !(args.is_fleet() || named_dir || path.is_dir()) {
        return Ok(Some(path.to_owned()));
    }
    std::fs::create_dir_all(path).map_err(|e| {
        Error::io(format!("cannot make the directory {}", path.display()), e).of_host()
    })?;
    Ok(Some(path.join(format!("{name}.{extension}"))))
}

/// What QEMU can use on this host.
#[derive(Clone, Copy)]
struct Host {
    accel: Accel,
    aio: Aio,
    export: ExportChoice,
}

/// The user's choices, or what trying QEMU shows; both trials run at once.
fn host(args: &RunArgs, qemu: &Path) -> Host {
    std::thread::scope(|scope| {
        let aio = scope.spawn(|| match args.machine.aio {
            AioChoice::Auto => probe_aio(qemu, PROBE),
            AioChoice::Threads => Aio::Threads,
            AioChoice::IoUring => Aio::IoUring,
            AioChoice::Native => Aio::Native,
        });
        let accel = accel(args.machine.accel, qemu);
        let export = args.export.unwrap_or_else(export);
        // A trial that panics has shown nothing.
        Host { accel, aio: aio.join().unwrap_or_default(), export }
    })
}

/// The best way for QEMU to get the disks; prints a note when it falls back to the slower one.
fn export() -> ExportChoice {
    match why_unavailable() {
        None => ExportChoice::Fuse,
        Some(reason) => {
            eprintln!("note:    QEMU gets the disks by NBD, because {reason}");
            ExportChoice::Nbd
        }
    }
}

/// The accelerator; prints a note when it falls back to the slow one.
fn accel(choice: AccelChoice, qemu: &Path) -> Accel {
    match choice {
        AccelChoice::Kvm => Accel::Kvm,
        AccelChoice::Tcg => Accel::Tcg,
        AccelChoice::Auto => {
            let found = probe(qemu, PROBE);
            if let Some(reason) = found.reason {
                eprintln!("note:    without KVM, the guest will be slow: {reason}");
            }
            found.accel
        }
    }
}

/// Print the commands that would run the guests, after checking that their disks can be planned.
fn dry_run(args: &RunArgs, guests: &[Guest], qemu: Option<PathBuf>) -> Result<()> {
    let qemu = qemu.unwrap_or_else(|| "qemu-system-x86_64".into());
    let host = host(args, &qemu);
    let options = args.machine.options(host.aio);
    for guest in guests {
        let plan = planned(args, guest)?;
        let disks = status_disks(&plan);
        let hardware = plan.boot.as_ref().map(|boot| boot.hardware).unwrap_or_default();
        let domain = guest.domain.as_ref().ok().and_then(Option::as_ref);
        let firmware = plan.firmware.find(Board::default())?;
        let shown = GuestDisks {
            place: match host.export {
                ExportChoice::Fuse => DiskPlace::Directory(Path::new(PLACEHOLDER)),
                ExportChoice::Nbd => DiskPlace::Nbd(Path::new(SOCKET_PLACEHOLDER)),
            },
            disks: &disks,
            bus: hardware.bus,
            nic: hardware.nic,
            firmware: &firmware,
        };
        let machine = describe(&guest.name, domain, shown, &options);
        check_buses(&machine)?;
        let serial = match (args.is_test(), args.test.log.clone()) {
            (true, _) => Serial::Pipe,
            (false, Some(log)) => Serial::StdioLogged(log),
            (false, None) => Serial::Stdio,
        };
        let launch = Launch { accel: host.accel, serial, extra_args: args.qemu_args.clone() };
        writeln!(std::io::stdout(), "{}", machine.shell_line(&qemu, &launch))
            .map_err(|e| Error::io("cannot print the command", e))?;
    }
    Ok(())
}

/// Plans the disks as a mount would, without editing the guest and without keeping anything.
fn planned(args: &RunArgs, guest: &Guest) -> Result<Plan> {
    let overlay = match args.read_only {
        true => OverlayChoice::ReadOnly,
        false => OverlayChoice::Temporary(temporary_dir()),
    };
    let plan = Plan::build(&guest.source, &overlay)?;
    let report = MountReport { edits: EditReport::planned(&plan), ..MountReport::of(&plan) };
    eprint!("{}", report.text(args.verbose));
    Ok(plan)
}
