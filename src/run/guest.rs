//! Runs one guest, from its mount to its end.

use super::admission::Need;
use super::check::{Check, converse, filesystems};
use super::console::{Echo, Finding, Watch};
use super::emulator::Qemu;
use super::machine::{
    DEFAULT_MEMORY_MIB, DiskPlace, GuestDisks, MachineOptions, check_buses, describe,
};
use super::private::PrivateMount;
use super::pump::{Event, Pump, mount_is_gone};
use super::report::{GuestReport, Verdict};
use super::screen::Screen;
use super::settling::{Monitor, Outcome, SettleRequest, SettlingGuest, prepare};
use super::terminal::Terminal;
use crate::daemon::{BootReport, MountReport, MountRequest};
use crate::private_file::{self, Existing};
use crate::process::{Stop, poll_until};
use crate::qemu::{Accel, Board, Launch, Serial};
use crate::text::in_a_line;
use crate::xen::DomainConfig;
use crate::{Error, Result};
use nix::poll::{PollFd, PollFlags};
use regex::Regex;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

/// A guest to run.
#[derive(Clone, Debug)]
pub struct Job {
    /// The guest's name.
    pub name: String,
    /// Its config, if it has one.
    pub domain: Option<DomainConfig>,
    /// Its disks.
    pub mount: MountRequest,
    /// QEMU's binary.
    pub qemu: PathBuf,
    /// The accelerator.
    pub accel: Accel,
    /// The user's choices for the machine.
    pub machine: MachineOptions,
    /// Where its disks move to while it runs on the terminal.
    pub settle: Option<SettleRequest>,
    /// Arguments for QEMU, appended verbatim.
    pub extra_args: Vec<OsString>,
    /// File that records the serial console.
    pub log: Option<PathBuf>,
    /// What is checked inside the guest after the expected text has appeared.
    pub check: Option<Check>,
    /// File for a picture of the screen, taken when the text has appeared or can't appear.
    pub screenshot: Option<PathBuf>,
    /// Print more on standard error: about the disk, and the lines of a watched console.
    pub verbose: bool,
}

impl Job {
    /// What the guest needs of the host.
    pub fn need(&self) -> Need {
        let domain = self.domain.as_ref();
        let memory = self.machine.memory_mib.or_else(|| domain?.memory_mib);
        let vcpus = self.machine.vcpus.or_else(|| domain?.vcpus);
        Need { memory_mib: memory.unwrap_or(DEFAULT_MEMORY_MIB), vcpus: vcpus.unwrap_or(1) }
    }
}

/// What a test boot waits for.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The text to search for in each line of the console.
    pub text: Regex,
    /// How long to wait, from QEMU's start.
    pub timeout: Duration,
}

/// What to do with the serial console.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Connect it to the terminal, until the guest or the user ends.
    Terminal,
    /// Watch it for a text, and end the guest when that appears.
    Watch(Expectation),
}

/// Run a guest to its end. The mount and QEMU are gone afterwards, whatever the result.
///
/// # Errors
/// When the mount or QEMU could not be started or failed, and when `stop` was raised. A missing
/// text is a verdict, not an error.
pub fn boot(job: &Job, mode: &Mode, stop: &Stop) -> Result<GuestReport> {
    let (terminal, limit) = match mode {
        Mode::Terminal => (Terminal::of_stdin(), None),
        Mode::Watch(e) => (None, Some(e.timeout)),
    };
    let mut mount = PrivateMount::start(&job.mount, terminal.is_some()).map_err(Error::of_host)?;
    let report = mount.wait_ready(stop, limit)?;
    tell(&report, job, matches!(mode, Mode::Terminal));
    let disks = report.status_disks();
    let firmware = report.firmware.find(Board::default()).map_err(Error::of_host)?;
    let guest = GuestDisks {
        place: DiskPlace::of(&report),
        disks: &disks,
        bus: report.hardware.bus,
        nic: report.hardware.nic,
        firmware: &firmware,
    };
    let machine = describe(&job.name, job.domain.as_ref(), guest, &job.machine);
    check_buses(&machine)?;
    // Before QEMU opens it by name, so that it is created with our mode.
    let open_log = |path| private_file::open(path, "the console", Existing::Truncate);
    let log = job.log.as_deref().map(open_log).transpose().map_err(Error::of_host)?;
    let serial = match (mode, &job.log) {
        (Mode::Watch(_), _) => Serial::Pipe,
        (Mode::Terminal, Some(log)) => Serial::StdioLogged(log.clone()),
        (Mode::Terminal, None) => Serial::Stdio,
    };
    let settling = match &job.settle {
        Some(request) => Some((prepare(guest.place, request)?, Monitor::new()?, request.options)),
        None => None,
    };
    let mut extra_args = job.extra_args.clone();
    extra_args.extend(settling.iter().flat_map(|(_, monitor, _)| monitor.args()));
    let screen = job.screenshot.as_ref().map(|_| Screen::new()).transpose()?;
    extra_args.extend(screen.iter().flat_map(Screen::args));
    let launch = Launch { accel: job.accel, serial, extra_args };
    let watched = matches!(mode, Mode::Watch(_));
    let mut qemu =
        Qemu::start(&job.qemu, &machine.args(&launch), watched).map_err(Error::of_host)?;
    let settling = settling.map(|(disks, monitor, options)| monitor.start(disks, options));
    let mut settling = settling.transpose()?;
    let mut mount = Some(mount);
    let result = match mode {
        Mode::Terminal => attend(job, &mut qemu, &mut mount, settling.as_mut(), stop),
        Mode::Watch(expected) => match &mut mount {
            Some(mount) => {
                let console = Watch::new(expected.text.clone(), job.verbose.then_some(Echo))
                    .if_empty(why_silent(&report.boot));
                let mut pump = Pump::new(&mut qemu, mount, stop, log);
                let cards = machine.nics.len();
                watch(job, (expected, console), &mut pump, (screen, cards), stop)
            }
            None => Err(mount_is_gone()),
        },
    };
    qemu.end();
    if let Some(terminal) = terminal {
        terminal.restore();
    }
    // What a guest that powered off has left is read before its disks are gone.
    let left = matches!(&result, Ok(report) if report.has_powered_off());
    let left = left.then(|| filesystems(&report.mountpoint));
    let ended = mount.map_or(Ok(()), PrivateMount::end);
    let mut report = result?;
    ended.map_err(Error::of_host)?;
    report.checks.extend(left);
    report.conclude_checks();
    Ok(report)
}

/// Reports what was mounted: in full for a person, otherwise only what the user should know.
fn tell(report: &MountReport, job: &Job, person: bool) {
    if person {
        return eprint!("{}", report.text(job.verbose));
    }
    let warnings = report.warnings().into_iter().chain(report.edits.notes());
    let lines: Vec<String> = match job.verbose {
        true => report.text(true).lines().map(str::to_owned).collect(),
        false => warnings.map(|note| format!("note:    {}", in_a_line(&note))).collect(),
    };
    for line in lines {
        eprintln!("{}: {line}", job.name);
    }
}

/// Waits until the guest on the terminal ends. A mount that it no longer needs is ended and taken.
fn attend(
    job: &Job,
    qemu: &mut Qemu,
    mount: &mut Option<PrivateMount>,
    mut settling: Option<&mut SettlingGuest>,
    stop: &Stop,
) -> Result<GuestReport> {
    let mut unsettled = None;
    loop {
        let sources = [
            Some(stop.as_fd()),
            mount.as_ref().map(PrivateMount::end_of_keeper),
            qemu.errors.as_ref().map(AsFd::as_fd),
            mount.as_ref().and_then(PrivateMount::messages),
            settling.as_ref().and_then(|settling| settling.end()),
        ];
        let mut fds = Vec::new();
        let places = sources.map(|source| {
            fds.push(PollFd::new(source?, PollFlags::POLLIN));
            Some(fds.len() - 1)
        });
        let ready = poll_until(&mut fds, None)?;
        let ready = places.map(|place| place.is_some_and(|i| ready[i]));
        let [stopped, keeper_ended, errors, messages, settled] = ready;
        if stopped {
            return Err(stop.error());
        }
        if settled {
            match settling.as_mut().and_then(|settling| settling.result()) {
                Some(Ok(outcome)) => leave_mount(job, &outcome, mount)?,
                Some(Err(e)) => {
                    eprintln!("warning: the guest does not settle: {}", in_a_line(&e.to_string()));
                    unsettled = Some(e);
                }
                None => {}
            }
            continue;
        }
        if errors {
            if let Some(status) = qemu.read_errors() {
                let report = GuestReport::new(&job.name, Verdict::Ended, qemu.started.elapsed());
                if let Some(failure) = qemu.failure(status) {
                    return Err(failure);
                }
                return match unsettled {
                    Some(e) => Err(e),
                    None => settled_at_last(settling, job, mount).map(|()| report),
                };
            }
        }
        if let Some(mount) = mount.as_mut().filter(|_| messages) {
            mount.pass_messages();
        }
        if keeper_ended {
            return Err(mount_is_gone());
        }
    }
}

/// After QEMU's end, take the result of the thread that settles the guest, if there is one that has not
/// told its result.
fn settled_at_last(
    settling: Option<&mut SettlingGuest>,
    job: &Job,
    mount: &mut Option<PrivateMount>,
) -> Result<()> {
    match settling.and_then(SettlingGuest::result) {
        Some(Ok(outcome)) => leave_mount(job, &outcome, mount),
        Some(Err(e)) => {
            let what = format!("the guest ended before it had settled: {e}");
            Err(Error::with_source(e.kind(), what, e))
        }
        None => Ok(()),
    }
}

/// Reports where the guest's disks are now, and ends the mount if nothing needs it.
fn leave_mount(job: &Job, outcome: &Outcome, mount: &mut Option<PrivateMount>) -> Result<()> {
    let files: Vec<_> = outcome.settled.files.iter().map(|f| f.display().to_string()).collect();
    let pause = outcome.settled.pause.as_millis();
    let name = in_a_line(&job.name);
    eprintln!("settled: {name} is in {} now; paused for {pause} ms", in_a_line(&files.join(", ")));
    if outcome.left.is_empty() {
        return mount.take().map_or(Ok(()), PrivateMount::end);
    }
    eprintln!("note:    {name} still needs the mount for {}", outcome.left.join(", "));
    Ok(())
}

/// What is likely if a guest that boots so prints nothing.
fn why_silent(boot: &BootReport) -> &'static str {
    match boot {
        BootReport::Nothing => "the disk has no boot loader",
        BootReport::OwnLoader { .. } => {
            "the image's own boot code does not start, or nothing of it is told to use the serial \
             port (console=ttyS0 in the guest's own menu)"
        }
        BootReport::Kernel { cmdline, .. } if !cmdline.contains("console=ttyS0") => {
            "the command line has no console=ttyS0; give it with --append"
        }
        BootReport::Kernel { .. } => {
            "the kernel stopped before its first line, or has no driver for the serial port"
        }
    }
}

/// Waits until the expected text appears, until it can't appear any more, or until the timeout; then
/// takes the picture and makes the checks that the job asks for. `cards`: the machine's network cards.
fn watch(
    job: &Job,
    (expected, mut watch): (&Expectation, Watch),
    pump: &mut Pump<'_>,
    (screen, cards): (Option<Screen>, usize),
    stop: &Stop,
) -> Result<GuestReport> {
    let end = pump.qemu.started + expected.timeout;
    let finding = loop {
        let finding = match pump.next(end)? {
            Event::Output(bytes) => watch.feed(&bytes, pump.now()),
            Event::Silence => watch.quiet(),
            Event::Deadline => None,
            Event::Ended => {
                let why = format!("the guest ended; {}", watch.silence(pump.now()));
                break watch.quiet().unwrap_or(Finding::Hopeless(why));
            }
        };
        if let Some(finding) = finding {
            break finding;
        }
        let now = pump.now();
        if now >= expected.timeout {
            let seconds = expected.timeout.as_secs();
            break Finding::Hopeless(format!("not within {seconds} s; {}", watch.silence(now)));
        }
    };
    let at = pump.now();
    let mut report = GuestReport::new(&job.name, Verdict::Passed, at);
    if let Some((screen, path)) = screen.zip(job.screenshot.as_deref()) {
        match screen.take(path, stop) {
            Ok(()) => report.screenshot = Some(path.to_owned()),
            Err(e) => eprintln!("{}: note:    no screenshot: {e}", in_a_line(&job.name)),
        }
    }
    report.seconds_to_kernel = watch.kernel_at().map(|at| at.as_secs_f64());
    match finding {
        Finding::Matched(line) => {
            report.seconds_to_match = Some(at.as_secs_f64());
            report.matched = Some(line);
            if let Some(check) = &job.check {
                report.checks = converse(pump, &mut watch, check, cards, expected.timeout)?;
            }
        }
        Finding::Hopeless(why) => report.fail(why),
    }
    report.tail = watch.tail();
    report.seconds = pump.now().as_secs_f64();
    Ok(report)
}
