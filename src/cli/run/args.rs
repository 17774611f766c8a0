//! Arguments of `run`.

use crate::cli::identity::{IdentityArgs, read_script};
use crate::finalize::OutputFormat;
use crate::layout::parse_size;
use crate::plan::SourceOptions;
use crate::qemu::{Aio, DiskBus, Graphics};
use crate::run::SettleRequest;
use crate::run::check::Check;
use crate::run::duration::parse_duration;
use crate::run::machine::{MachineOptions, Net};
use crate::run::results::before_any_guest;
use crate::run::shard::Shard;
use crate::sandbox::Mode;
use crate::{Error, ErrorKind, Result};
use clap::{ArgGroup, Args, ValueEnum};
use regex::Regex;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(in crate::cli) struct RunArgs {
    /// Images of the guest's partitions (files or block devices, opened read-only), or one XVA
    #[arg(value_name = "IMAGE", required_unless_present_any = ["config", "configs_from"])]
    #[arg(conflicts_with_all = ["config", "configs_from"])]
    pub(super) images: Vec<PathBuf>,

    /// Read the guest's disks from its domU config (xl.cfg) instead of naming images; may be
    /// repeated with --expect
    #[arg(long, value_name = "DOMU.cfg", help_heading = "Source")]
    pub(super) config: Vec<PathBuf>,

    /// Read the names of domU configs from this file, one per line; - is standard input
    #[arg(long, value_name = "FILE|-", help_heading = "Source", conflicts_with = "config")]
    pub(super) configs_from: Option<PathBuf>,

    #[command(flatten)]
    pub(super) options: SourceOptions,

    #[command(flatten)]
    pub(super) identity: IdentityArgs,

    /// Keep writes in this qcow2 file, created on first use [default: discard them at the end]
    #[arg(long, value_name = "FILE", help_heading = "Overlay")]
    #[arg(conflicts_with_all = ["read_only", "overlay_dir"])]
    pub(super) overlay: Option<PathBuf>,

    /// Keep writes in this directory, one file per disk; several guests get a subdirectory each
    #[arg(long, value_name = "DIR", help_heading = "Overlay", conflicts_with = "read_only")]
    pub(super) overlay_dir: Option<PathBuf>,

    /// Let the overlay of each disk occupy at most this much storage (512M, 20G); further writes
    /// fail with ENOSPC
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "read_only")]
    #[arg(help_heading = "Overlay")]
    pub(super) overlay_limit: Option<u64>,

    /// Refuse all writes
    #[arg(long, help_heading = "Overlay")]
    pub(super) read_only: bool,

    /// How the process that serves the disks is confined
    #[arg(long, value_name = "MODE", default_value = "auto", help_heading = "Machine")]
    pub(super) sandbox: Mode,

    /// How QEMU gets the disks [default: fuse where there is FUSE, else nbd]
    #[arg(long, value_enum, help_heading = "Machine")]
    pub(super) export: Option<ExportChoice>,

    #[command(flatten)]
    pub(super) machine: MachineArgs,

    #[command(flatten)]
    pub(super) settle: SettleArgs,

    #[command(flatten)]
    pub(super) test: TestArgs,

    /// Print the QEMU command and start nothing
    #[arg(long, help_heading = "Machine")]
    pub(super) dry_run: bool,

    /// Print what was changed in the guest's command line, and the output of a watched console
    #[arg(short, long, help_heading = "Machine")]
    pub(super) verbose: bool,

    /// Arguments passed to QEMU unchanged
    #[arg(last = true, value_name = "QEMU ARGS")]
    pub(super) qemu_args: Vec<OsString>,
}

impl RunArgs {
    /// Whether the guests are tested, and not run on the terminal.
    pub(in crate::cli) fn is_test(&self) -> bool {
        self.test.expect.is_some() || self.test.checks_something()
    }

    /// Whether there may be several guests, so that each needs files of its own.
    pub(super) fn is_fleet(&self) -> bool {
        self.config.len() > 1 || self.configs_from.is_some()
    }

    /// Reads the list of configs, if there is one.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an empty list; errors of reading it.
    pub(super) fn read_list(&mut self) -> Result<()> {
        let Some(path) = &self.configs_from else { return Ok(()) };
        let failed =
            |e| before_any_guest(Error::io(format!("cannot read the list {}", path.display()), e));
        let text = match path == Path::new("-") {
            true => std::io::read_to_string(std::io::stdin()).map_err(failed)?,
            false => std::fs::read_to_string(path).map_err(failed)?,
        };
        let names = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        self.config = names.map(PathBuf::from).collect();
        if self.config.is_empty() {
            let what = format!("the list {} names no config", path.display());
            return Err(Error::new(ErrorKind::Usage, what));
        }
        Ok(())
    }

    /// Files whose names are in results.
    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let TestArgs { log, screenshot, report, .. } = &self.test;
        self.images.iter().chain(&self.config).chain(log).chain(screenshot).chain(report)
    }

    /// Exits with code 2 if arguments conflict in a way that clap cannot describe.
    pub(super) fn check(&self) {
        let several = self.is_fleet();
        let wrong = if several && !self.is_test() && !self.dry_run {
            "several guests can't share the terminal; use --expect or --check"
        } else if several && self.overlay.is_some() {
            "several guests can't share an overlay; use --overlay-dir"
        } else if several && self.options.record.is_some() {
            "several guests can't share a recording; run them one at a time"
        } else if several && self.identity.hostname.is_some() {
            "several guests can't share a hostname; run them one at a time"
        } else if self.test.checks_something()
            && (self.overlay_dir.is_some() || self.overlay.is_some())
        {
            "--check sets a root password, which must not stay in an overlay; drop --overlay"
        } else if self.test.checks_something() && self.read_only {
            "--check sets a root password in the overlay; drop --read-only"
        } else if self.read_only && self.identity.given().is_some() {
            "options like --hostname need a writable overlay; drop --read-only"
        } else if self.is_test() && self.paths().any(|path| path.to_str().is_none()) {
            "results of test boots contain names of files, which must be UTF-8; rename the file, or \
             give it a symbolic link"
        } else if self.qemu_args.iter().any(|a| a == "-daemonize" || a == "--daemonize") {
            "-daemonize can't be used: synthdisk waits for QEMU to end"
        } else {
            return;
        };
        clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, format!("{wrong}\n")).exit()
    }
}

/// How QEMU gets the disks.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum ExportChoice {
    /// As files of a private mount
    Fuse,
    /// From a private NBD server, without FUSE
    Nbd,
}

/// Which accelerator to use.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(super) enum AccelChoice {
    /// KVM if it works here, else TCG
    #[default]
    Auto,
    Kvm,
    Tcg,
}

/// How QEMU does I/O.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(super) enum AioChoice {
    /// io_uring where the kernel and QEMU have it, else threads
    #[default]
    Auto,
    Threads,
    #[value(name = "io_uring")]
    IoUring,
    Native,
}

/// The bus to which disks are attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum BusChoice {
    Virtio,
    Scsi,
    Nvme,
    Ahci,
    Ide,
}

/// A size in MiB when it has no suffix, as in a config and in QEMU.
fn memory(text: &str) -> std::result::Result<u64, String> {
    let mib = match text.trim().parse::<u64>() {
        Ok(mib) => mib,
        Err(_) => parse_size(text).map_err(|e| e.to_string())? >> 20,
    };
    // More than any host has; also QEMU's own limit.
    if (1..1 << 32).contains(&mib) {
        Ok(mib)
    } else {
        Err(format!("memory must be between 1 MiB and 4 PiB, not {mib} MiB"))
    }
}

/// The machine; the config supplies what is not given here.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Machine")]
pub(super) struct MachineArgs {
    /// RAM: 512M, 2G, or a number of MiB [default: the config's, else 1024]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,

    /// Number of processors [default: the config's, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    vcpus: Option<u32>,

    /// Accelerator
    #[arg(long, value_enum, default_value_t)]
    pub(super) accel: AccelChoice,

    /// Bus for disks [default: virtio, or one that the guest has a driver for]
    #[arg(long, value_enum)]
    bus: Option<BusChoice>,

    /// How QEMU reads and writes the disks
    #[arg(long, value_enum, default_value_t)]
    pub(super) aio: AioChoice,

    /// Network for the guest's cards
    #[arg(long, value_enum, default_value_t)]
    net: Net,

    /// Open a window with the guest's screen
    #[arg(long, conflicts_with = "tested")]
    graphic: bool,

    /// QEMU binary [default: the system's qemu-system-x86_64; PATH is searched unless root runs it]
    #[arg(long, value_name = "FILE")]
    pub(super) qemu: Option<PathBuf>,
}

impl MachineArgs {
    pub(super) fn options(&self, aio: Aio) -> MachineOptions {
        MachineOptions {
            memory_mib: self.memory,
            vcpus: self.vcpus,
            bus: self.bus.map(|bus| match bus {
                BusChoice::Virtio => DiskBus::Virtio,
                BusChoice::Scsi => DiskBus::VirtioScsi,
                BusChoice::Nvme => DiskBus::Nvme,
                BusChoice::Ahci => DiskBus::Ahci,
                BusChoice::Ide => DiskBus::Ide,
            }),
            net: self.net,
            graphics: Some(if self.graphic { Graphics::Screen } else { Graphics::Headless }),
            aio,
        }
    }
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    parse_duration(text).map_err(|e| e.to_string())
}

/// Moving the guest's disks to files while it runs.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Settling")]
pub(super) struct SettleArgs {
    /// Copy the guest's disks to this file while it runs, and let it go on from there; further
    /// disks go to files next to it. In a directory, each disk gets the name that it has in a mount
    #[arg(long, value_name = "FILE|DIR/", conflicts_with_all = ["read_only", "tested"])]
    settle: Option<PathBuf>,

    /// Format of these files: raw or qcow2 [default: by the extension, else raw]
    #[arg(long, value_enum, value_name = "raw|qcow2", hide_possible_values = true)]
    #[arg(requires = "settle")]
    settle_format: Option<OutputFormat>,

    /// Copy at most this much per second (20M)
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "settle")]
    settle_rate: Option<u64>,
}

impl SettleArgs {
    /// What is requested, if anything is. `force`: replace existing files.
    pub(super) fn request(&self, force: bool) -> Option<SettleRequest> {
        let output = self.settle.clone()?;
        let format = self.settle_format.unwrap_or_else(|| OutputFormat::of_name(&output));
        let options = crate::settle::Options { rate: self.settle_rate };
        Some(SettleRequest { output, format, options, force })
    }
}

/// What is checked in a guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum CheckChoice {
    /// systemd's state and failed units, address, default route, swap, root filesystem, clock, login,
    /// power off, clean filesystems
    Running,
}

/// What a guest prints when somebody can log in.
const LOGIN_PROMPT: &str = "login: *$";

impl TestArgs {
    /// Whether something is checked inside the guest.
    pub(super) fn checks_something(&self) -> bool {
        self.check.is_some() || !self.check_script.is_empty()
    }

    /// The text that is waited for: a login prompt if only checks are asked for.
    pub(super) fn expected(&self) -> Option<Regex> {
        let prompt = || Regex::new(LOGIN_PROMPT).ok().filter(|_| self.checks_something());
        self.expect.clone().or_else(prompt)
    }

    /// Make the directory for the page, in which logs and pictures are unless they were given a place.
    ///
    /// # Errors
    /// Fails if it can't be made.
    pub(super) fn prepare_report(&mut self) -> Result<()> {
        let Some(dir) = &self.report else { return Ok(()) };
        let failed =
            |e| Error::io(format!("cannot make the directory {}", dir.display()), e).of_host();
        std::fs::create_dir_all(dir).map_err(failed)?;
        // With a slash at the end: a directory for any number of guests.
        self.log.get_or_insert_with(|| dir.join(""));
        self.screenshot.get_or_insert_with(|| dir.join(""));
        Ok(())
    }

    /// The checks; reads the scripts.
    ///
    /// # Errors
    /// Fails if a script cannot be read, or if nothing says what runs it.
    pub(super) fn checks(&self) -> Result<Option<Check>> {
        if !self.checks_something() {
            return Ok(None);
        }
        let read = |(n, path): (usize, &PathBuf)| {
            let script = read_script("--check-script", path)?;
            // The number keeps scripts of one name apart, and ours.
            let name = format!("{}-{}", n + 1, script.name());
            Ok(script.renamed(name))
        };
        let scripts = self.check_script.iter().enumerate().map(read).collect::<Result<_>>()?;
        Ok(Some(Check::new(self.check.is_some(), scripts)))
    }
}

/// How many guests run at the same time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Jobs {
    /// At most so many.
    Count(u32),
    /// As many as there are processors for.
    Auto,
}

fn jobs(text: &str) -> std::result::Result<Jobs, String> {
    match text.parse() {
        Ok(count @ 1..=1000) => Ok(Jobs::Count(count)),
        _ if text == "auto" => Ok(Jobs::Auto),
        _ => Err("it must be auto, or a number between 1 and 1000".into()),
    }
}

fn shard(text: &str) -> std::result::Result<Shard, String> {
    Shard::parse(text, |name| std::env::var(name).ok()).map_err(|e| e.to_string())
}

/// Test boots.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Test boots")]
#[command(group = ArgGroup::new("tested").args(["expect", "check", "check_script"]).multiple(true))]
pub(super) struct TestArgs {
    /// Watch the serial console for a line that matches, then end the guest; exit with 1 if none
    /// comes, with 3 if the host was the reason
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    pub(super) expect: Option<Regex>,

    /// Log in on the serial console, with a password that only the temporary overlay has, check that
    /// the guest runs as it should, and power it off
    #[arg(long, value_enum)]
    pub(super) check: Option<CheckChoice>,

    /// Run this script in the guest as well; it fails unless its exit code is 0. May be repeated
    #[arg(long, value_name = "FILE")]
    pub(super) check_script: Vec<PathBuf>,

    /// Write a picture of the guest's screen as PNG to this file, or to one file per guest in a
    /// directory
    #[arg(long, value_name = "FILE|DIR", requires = "tested")]
    pub(super) screenshot: Option<PathBuf>,

    /// Write a page with all results, index.html, into this directory, with the consoles' logs and
    /// pictures of the screens
    #[arg(long, value_name = "DIR", requires = "tested")]
    pub(super) report: Option<PathBuf>,

    /// Limit for --expect, from QEMU's start, and again for the checks: 90, 120s, 2m
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "180s")]
    #[arg(requires = "tested")]
    pub(super) timeout: Duration,

    /// Write the serial console to this file, or to one file per guest in a directory
    #[arg(long, value_name = "FILE|DIR")]
    pub(super) log: Option<PathBuf>,

    /// How many guests run at the same time, at most, as far as the host has memory for them; auto: as
    /// many as it has processors for
    #[arg(long, value_name = "N|auto", default_value = "1", requires = "tested")]
    #[arg(value_parser = jobs)]
    pub(super) jobs: Jobs,

    /// Run this share of the guests: 2/8 is the second of eight. auto and auto/8 take the number from
    /// SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX
    #[arg(long, value_name = "I/N|auto[/N]", requires = "tested", value_parser = shard)]
    pub(super) shard: Option<Shard>,

    /// Write each result when its guest has ended, as JSON Lines; - is standard output
    #[arg(long, value_name = "FILE|-", requires = "tested")]
    pub(super) results: Option<PathBuf>,

    /// Skip guests with a final result in this file, and append the others' results to it; begin it if
    /// it does not exist
    #[arg(long, value_name = "FILE", requires = "tested", conflicts_with = "results")]
    pub(super) resume: Option<PathBuf>,

    /// Write the results as JSON; - is standard output
    #[arg(long, value_name = "FILE|-", requires = "tested")]
    pub(super) json: Option<PathBuf>,

    /// Write the results as JUnit XML; - is standard output
    #[arg(long, value_name = "FILE|-", requires = "tested")]
    pub(super) junit: Option<PathBuf>,
}
