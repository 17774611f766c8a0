//! The machine: QEMU, confined, with descriptors in place of files.

use super::console::{complaint, last_part};
use crate::edit::guest_kernel::Job;
use crate::export::{ExportSet, ExportedFile};
use crate::nbd::PrivateServer;
use crate::process::{Inherited, bound_to_us_as_other, clean_environment, own_file};
use crate::qemu::Accel;
use crate::sandbox::{Limits, RunAs, ToolSandbox, ToolThread};
use crate::{Error, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::scope;
use std::time::{Duration, Instant};

/// Memory of the machine in MiB, besides what its initrd takes.
const MEMORY_MIB: usize = 512;
/// The kernel's command line: no output but errors, a panic ends the machine, and nothing that takes long under TCG.
const CMDLINE: &str = "rdinit=/synthdisk/init console=ttyS0 quiet loglevel=4 panic=-1 oops=panic reboot=t selinux=0 \
                       apparmor=0 mitigations=off cryptomgr.notests no5lvl";
/// What QEMU may not do, whatever happens in the machine.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
/// How often the results are looked for, in ms.
const INTERVAL: u8 = 10;
/// Bytes at the start of the second disk that say whether there are results.
const HEAD: usize = 64;
/// Bytes that the machine may store, besides twice its job: with them it can replay the largest journal.
const MOST_WRITTEN: u64 = 2 << 30;

/// A machine that makes edits.
pub(super) struct Machine<'a> {
    /// QEMU.
    pub(super) program: PathBuf,
    pub(super) accel: Accel,
    /// The account of QEMU.
    pub(super) run_as: RunAs,
    /// A bzImage.
    pub(super) kernel: Vec<u8>,
    pub(super) initrd: Vec<u8>,
    /// How long it may run.
    pub(super) time: Duration,
    /// A socket; the machine is stopped when its other end is closed.
    pub(super) wanted: Option<BorrowedFd<'a>>,
}

/// What a machine has done.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) ended: Ended,
    /// The bytes of its second disk.
    pub(super) disk: Vec<u8>,
    /// Why something that it wrote to its first disk is not stored.
    pub(super) unstored: Option<io::Error>,
}

/// How a machine ended, with what its kernel and QEMU said last.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself, or because it had given its results.
    Exited(Said),
    /// It was killed, because it took too long.
    TimedOut(Said),
    /// It was killed, because nobody wants its results any more.
    Unwanted(Said),
}

#[derive(Debug)]
pub(super) struct Said {
    kernel: String,
    qemu: String,
}

impl Ended {
    /// What is wrong, as the kernel or QEMU says.
    pub(super) fn complaint(&self) -> Option<String> {
        let (Self::Exited(said) | Self::TimedOut(said) | Self::Unwanted(said)) = self;
        complaint(&said.kernel, &said.qemu)
    }
}

/// The open files of a machine.
struct Files {
    kernel: Inherited,
    initrd: Inherited,
    job: Inherited,
    socket: Inherited,
    own: Inherited,
}

impl Machine<'_> {
    /// Let the machine do `job` in the file `name` of `set`.
    ///
    /// # Errors
    /// Errors of starting it.
    pub(super) fn run(&self, set: &ExportSet, name: &str, job: &Job) -> Result<Outcome> {
        let failed = |e| Error::io("cannot prepare a machine for the guest's kernel", e);
        let shown: Vec<ExportedFile> =
            set.files.iter().filter(|file| file.name == name).cloned().collect();
        let disk = memory_file(c"synthdisk-job", &job.disk()).map_err(failed)?;
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let inherited = |file: &File| Inherited::new(file).map_err(failed);
        let files = Files {
            kernel: inherited(&memory_file(c"synthdisk-kernel", &self.kernel).map_err(failed)?)?,
            initrd: inherited(&memory_file(c"synthdisk-initrd", &self.initrd).map_err(failed)?)?,
            job: inherited(&disk)?,
            socket: Inherited::new(&theirs).map_err(failed)?,
            own: own_file()?,
        };
        drop(theirs);
        let mut command = self.command(&files, name);
        let limits =
            Limits { memory: None, cpu: Some(2 * self.time.as_secs() + 60), file_len: None };
        let exe = std::env::current_exe().map_err(failed)?;
        let sandbox = ToolSandbox {
            run_as: self.run_as,
            limits,
            programs: &[&self.program, &exe],
            files: &[Path::new("/dev/kvm")],
        };
        let mut bytes = job.disk();
        let limit = MOST_WRITTEN + 2 * bytes.len() as u64;
        let server = PrivateServer::new(&ExportSet::private(shown), limit)?;
        let ended = scope(|scope| {
            // What serves is not confined as QEMU is.
            let serving = scope.spawn(|| server.serve(ours.into()));
            let ended = sandbox.run(|thread| {
                let child = start(thread, &mut command);
                // The machine has its own descriptors now, and its socket must close with it.
                drop(files);
                self.supervise(child?, job, &disk)
            });
            // The machine is gone, and so is what it waited for.
            server.end();
            if let Ok(Err(e)) = serving.join() {
                tracing::info!("{e}");
            }
            ended
        })?;
        disk.read_exact_at(&mut bytes, 0).map_err(failed)?;
        Ok(Outcome { ended, disk: bytes, unstored: server.take_failure() })
    }

    /// QEMU's command line. Its files are descriptors, so it needs none of the host's but its own.
    fn command(&self, files: &Files, export: &str) -> Command {
        let cpu = match self.accel {
            Accel::Kvm => self.accel.cpu(),
            // A kernel needs no more, and takes longer with all that QEMU can emulate.
            Accel::Tcg => "qemu64",
        };
        // A kernel is told of errors at once; otherwise QEMU waits for a person to mend what is full.
        let device = |drive: &str, slot: u8| {
            format!("virtio-blk-pci,drive={drive},addr={slot:#x},werror=report,rerror=report")
        };
        let memory = MEMORY_MIB + 3 * self.initrd.len().div_ceil(1 << 20);
        let mut command =
            bound_to_us_as_other(&files.own, self.program.as_os_str(), Signal::SIGKILL);
        clean_environment(&mut command)
            .env("LC_ALL", "C")
            .args(["-name", "synthdisk-edit", "-machine", "pc", "-accel", self.accel.name()])
            .args(["-cpu", cpu, "-m", &format!("{memory}M"), "-smp", "1"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-nic", "none", "-sandbox", SANDBOX])
            .arg("-kernel")
            .arg(files.kernel.path())
            .arg("-initrd")
            .arg(files.initrd.path())
            .args(["-append", CMDLINE])
            .args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"])
            .arg("-blockdev")
            .arg(format!(
                "driver=nbd,node-name=root,server.type=fd,server.str={},export={},discard=unmap",
                files.socket.number(),
                export.replace(',', ",,")
            ))
            .arg("-add-fd")
            .arg(format!("fd={},set=1", files.job.number()))
            .args(["-blockdev", "driver=file,node-name=job,filename=/dev/fdset/1,locking=off"])
            // Linux finds them in this order.
            .args(["-device", &device("root", 3), "-device", &device("job", 4)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Let the machine run until it has given its results, has ended, takes too long, or is not wanted.
    fn supervise(&self, mut child: Child, job: &Job, disk: &File) -> Result<Ended> {
        let until = Instant::now() + self.time;
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        scope(|scope| {
            let kernel = scope.spawn(move || output.map(last_part).unwrap_or_default());
            let qemu = scope.spawn(move || errors.map(last_part).unwrap_or_default());
            let waited = wait(&mut child, job, disk, (until, self.wanted));
            let _ = child.kill(); // it may have ended
            let reaped = child.wait();
            let said = Said {
                kernel: kernel.join().unwrap_or_default(),
                qemu: qemu.join().unwrap_or_default(),
            };
            let failed = |e| Error::io("cannot wait for QEMU", e);
            reaped.map_err(failed)?;
            Ok(waited.map_err(failed)?(said))
        })
    }
}

/// Wait until the machine has ended or given its results, but not after `until`, nor when the other end of
/// `wanted` is closed.
fn wait(
    child: &mut Child,
    job: &Job,
    disk: &File,
    (until, wanted): (Instant, Option<BorrowedFd<'_>>),
) -> io::Result<fn(Said) -> Ended> {
    let mut head = [0; HEAD];
    // That it is closed is always reported.
    let mut fds: Vec<_> =
        wanted.map(|fd| PollFd::new(fd, PollFlags::empty())).into_iter().collect();
    loop {
        if child.try_wait()?.is_some() {
            return Ok(Ended::Exited);
        }
        // They are written after all else is stored.
        disk.read_exact_at(&mut head, 0)?;
        if job.is_answered(&head) {
            return Ok(Ended::Exited);
        }
        if Instant::now() >= until {
            return Ok(Ended::TimedOut);
        }
        match poll(&mut fds, PollTimeout::from(INTERVAL)) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(Ended::Unwanted),
            Err(e) => return Err(e.into()),
        }
    }
}

fn start(thread: &ToolThread, command: &mut Command) -> Result<Child> {
    thread.spawn(command).map_err(|e| Error::io("cannot start QEMU", e))
}

/// The user ID of QEMU, and the accelerator that it can use then: root's QEMU has no rights, and opens
/// /dev/kvm by its group, if it has one.
pub(super) fn account(accel: Accel) -> (Accel, RunAs) {
    let device = std::fs::metadata("/dev/kvm").ok().filter(|_| accel == Accel::Kvm);
    match device.map(|device| (device.mode(), device.gid())) {
        _ if !nix::unistd::geteuid().is_root() => (accel, RunAs::Caller),
        Some((mode, _)) if mode & 0o006 == 0o006 => (accel, RunAs::Unprivileged),
        Some((mode, gid)) if mode & 0o060 == 0o060 && gid != 0 => (accel, RunAs::InGroup(gid)),
        _ => (Accel::Tcg, RunAs::Unprivileged),
    }
}

/// A file in memory.
fn memory_file(name: &CStr, bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}
