//! A guest in QEMU, driven over its serial console.
//!
//! Every wait has a time limit, and QEMU ends with the [`Guest`], however the test ends. Limits are
//! meant for TCG on a busy machine; `SYNTHDISK_TEST_TIME_FACTOR` stretches them all.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use super::drive::{Bus, Disk};
use super::process::command;
use super::slots::Slot;
use synthdisk::qemu::{Board, Firmware, FirmwareKind};

/// How to start a guest.
#[derive(Clone, Debug)]
pub struct GuestBuilder {
    memory_mib: u32,
    cpus: u32,
    disks: Vec<Disk>,
    kernel: Option<(PathBuf, Option<PathBuf>, String)>,
    no_reboot: bool,
    user: Option<u32>,
    uefi: bool,
    extra: Vec<OsString>,
}

impl GuestBuilder {
    /// Memory in MiB; 256 if not set.
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Virtual processors; 1 if not set.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Adds a disk. The first one is what the BIOS boots.
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Starts this kernel with QEMU's own `-kernel` in place of the disk's boot loader.
    pub fn kernel(mut self, kernel: &Path, initrd: Option<&Path>, cmdline: &str) -> Self {
        self.kernel =
            Some((kernel.to_path_buf(), initrd.map(Path::to_path_buf), cmdline.to_string()));
        self
    }

    /// A guest that reboots ends QEMU.
    pub fn no_reboot(mut self) -> Self {
        self.no_reboot = true;
        self
    }

    /// Runs QEMU as this user, who is given to a group of the same number. Needs root.
    pub fn user(mut self, id: u32) -> Self {
        self.user = Some(id);
        self
    }

    /// UEFI firmware in place of the BIOS (package ovmf).
    pub fn uefi(mut self) -> Self {
        self.uefi = true;
        self
    }

    /// More arguments for QEMU, such as `["-nic", "user,model=virtio-net-pci"]`.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.extra.extend(args.iter().map(OsString::from));
        self
    }

    /// The arguments for QEMU.
    fn qemu_args(&self) -> Vec<OsString> {
        let accel = std::env::var("SYNTHDISK_TEST_ACCEL").unwrap_or_else(|_| "tcg".to_string());
        let mut args: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
        add(&["-nodefaults", "-display", "none", "-monitor", "none", "-accel", &accel]);
        // A machine with a VGA adapter, as users have, so that the BIOS has somewhere to print.
        add(&["-vga", "std", "-m", &self.memory_mib.to_string()]);
        add(&["-smp", &self.cpus.to_string()]);
        add(&["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        if self.no_reboot {
            add(&["-no-reboot"]);
        }
        if self.uefi {
            let found = FirmwareKind::Uefi.find(Board::Pc).unwrap_or_else(|e| panic!("{e}"));
            let Firmware::Uefi { code, variables } = found else { panic!("{found:?}") };
            for (unit, file, how) in [(0, code, "readonly"), (1, variables, "snapshot")] {
                let (path, format) = (file.path.display(), file.format);
                let drive = format!("if=pflash,unit={unit},format={format},file={path},{how}=on");
                add(&["-drive", &drive]);
            }
        }
        for (n, disk) in self.disks.iter().enumerate() {
            let file = disk.path.to_string_lossy().replace(',', ",,");
            let mut drive = format!(
                "file={file},if=none,id=disk{n},format={},cache={},aio=threads",
                disk.format, disk.cache
            );
            if disk.snapshot {
                drive.push_str(",snapshot=on");
            }
            add(&["-drive", &drive]);
            let device = match disk.bus {
                Bus::Virtio => format!("virtio-blk-pci,drive=disk{n}"),
                Bus::Ide => format!("ide-hd,bus=ide.{},unit={},drive=disk{n}", n / 2 % 2, n % 2),
                Bus::Nvme => format!("nvme,serial=synthdisk{n},drive=disk{n}"),
                Bus::Scsi => {
                    add(&["-device", &format!("virtio-scsi-pci,id=scsi{n}")]);
                    format!("scsi-hd,bus=scsi{n}.0,drive=disk{n}")
                }
            };
            add(&["-device", &format!("{device},bootindex={}", n + 1)]);
        }
        if let Some((kernel, initrd, cmdline)) = &self.kernel {
            args.extend(["-kernel".into(), kernel.into(), "-append".into(), cmdline.into()]);
            if let Some(initrd) = initrd {
                args.extend(["-initrd".into(), initrd.into()]);
            }
        }
        args.extend(self.extra.iter().cloned());
        args
    }

    /// Starts QEMU. It must end in the thread that started it: the kernel kills it with that
    /// thread, so that a test that is killed leaves nothing behind.
    #[expect(unsafe_code, reason = "what runs between fork and exec must be safe there")]
    pub fn start(self) -> Guest {
        let args = self.qemu_args();
        let mut qemu = command("qemu-system-x86_64");
        qemu.args(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(id) = self.user {
            qemu.uid(id).gid(id).current_dir("/");
        }
        // SAFETY: prctl(PR_SET_PDEATHSIG) is one system call: it takes no lock and no memory, so it
        // may run between fork and exec.
        unsafe {
            qemu.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            });
        }
        let slot = Slot::take();
        let started = Instant::now();
        let mut child =
            qemu.spawn().unwrap_or_else(|e| panic!("cannot start qemu-system-x86_64: {e}"));
        let console = Arc::new(Console::default());
        let errors = Arc::new(Console::default());
        collect(child.stdout.take().expect("stdout is a pipe"), &console);
        collect(child.stderr.take().expect("stderr is a pipe"), &errors);
        Guest {
            input: child.stdin.take().expect("stdin is a pipe"),
            child,
            console,
            errors,
            args,
            seen: 0,
            serial: 0,
            started,
            _slot: slot,
        }
    }
}

/// What came out of a pipe so far.
#[derive(Default)]
struct Console {
    state: Mutex<ConsoleState>,
    changed: Condvar,
}

#[derive(Default)]
struct ConsoleState {
    bytes: Vec<u8>,
    closed: bool,
}

impl Console {
    fn lock(&self) -> MutexGuard<'_, ConsoleState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a pipe to its end in a thread of its own, so that QEMU never waits for us.
fn collect(mut pipe: impl Read + Send + 'static, into: &Arc<Console>) {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let n = pipe.read(&mut buffer).unwrap_or(0);
            let mut state = into.lock();
            state.bytes.extend_from_slice(&buffer[..n]);
            state.closed = n == 0;
            into.changed.notify_all();
            if n == 0 {
                break;
            }
        }
    });
}

/// A running QEMU, killed when dropped.
pub struct Guest {
    child: Child,
    input: ChildStdin,
    console: Arc<Console>,
    errors: Arc<Console>,
    args: Vec<OsString>,
    /// How much of the console earlier calls have consumed, in bytes.
    seen: usize,
    /// Makes the markers of each command its own.
    serial: u32,
    started: Instant,
    _slot: Arc<Slot>,
}

impl Guest {
    /// A guest with 256 MiB, one processor, no disk and no network.
    pub fn builder() -> GuestBuilder {
        GuestBuilder {
            memory_mib: 256,
            cpus: 1,
            disks: Vec::new(),
            kernel: None,
            no_reboot: false,
            user: None,
            uefi: false,
            extra: Vec::new(),
        }
    }

    /// Time since QEMU was started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// All that the console has printed so far.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&self.console.lock().bytes).into_owned()
    }

    /// Waits until the console prints `wanted`, looking only at what earlier calls have not
    /// consumed. Gives the text up to and with it.
    pub fn try_expect(&mut self, wanted: &str, limit: Duration) -> Result<String, String> {
        self.try_expect_any(&[wanted], limit).map(|(_, text)| text)
    }

    /// Like [`Guest::try_expect`] for several texts: gives the index of the one that comes first.
    pub fn try_expect_any(
        &mut self,
        wanted: &[&str],
        limit: Duration,
    ) -> Result<(usize, String), String> {
        let end = Instant::now() + stretch(limit);
        let longest = wanted.iter().map(|w| w.len()).max().unwrap_or(0);
        let mut state = self.console.lock();
        // Every byte is searched once, however often the console prints.
        let mut searched = self.seen;
        loop {
            let new = &state.bytes[searched..];
            let first = wanted
                .iter()
                .enumerate()
                .filter_map(|(i, w)| find(new, w.as_bytes()).map(|at| (at + w.len(), i)))
                .min();
            if let Some((len, which)) = first {
                let end = searched + len;
                let text = String::from_utf8_lossy(&state.bytes[self.seen..end]).into_owned();
                self.seen = end;
                return Ok((which, text));
            }
            searched = searched.max(state.bytes.len().saturating_sub(longest));
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closed {
                let why = if state.closed { "QEMU ended" } else { "timed out" };
                let what = format!("{why} waiting for {wanted:?} ({:?})", stretch(limit));
                drop(state);
                return Err(self.report(&what));
            }
            state = self
                .console
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// [`Guest::try_expect`] that panics with the console's last output.
    pub fn expect(&mut self, wanted: &str, limit: Duration) -> String {
        self.try_expect(wanted, limit).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Types a line.
    pub fn send_line(&mut self, line: &str) {
        // The guest's terminal driver takes 4096 bytes per line and drops the rest.
        assert!(line.len() < 4000, "the line is too long for a terminal: {} bytes", line.len());
        let sent = self.input.write_all(format!("{line}\n").as_bytes());
        let sent = sent.and_then(|()| self.input.flush());
        if let Err(e) = sent {
            panic!("{}", self.report(&format!("cannot type {line:?}: {e}")));
        }
    }

    /// Waits for `login:` and logs in. Afterwards [`Guest::run`] works.
    pub fn login(&mut self, user: &str, password: &str, limit: Duration) {
        self.try_login(user, password, limit).unwrap_or_else(|e| panic!("{e}"));
    }

    /// [`Guest::login`] that gives the error.
    pub fn try_login(&mut self, user: &str, password: &str, limit: Duration) -> Result<(), String> {
        let end = Instant::now() + limit;
        self.try_expect("login:", limit)?;
        // Kernel messages may tear a prompt or a late service may clear the line: try again.
        for attempt in 1.. {
            self.send_line(user);
            match self.try_expect("assword:", Duration::from_secs(20)) {
                Ok(_) => break,
                Err(e) if attempt == 3 => return Err(e),
                Err(_) => {}
            }
        }
        // The echo goes off only after the prompt.
        std::thread::sleep(Duration::from_millis(200));
        self.send_line(password);
        // What is typed before the shell reads may get lost, so ask until it answers. Without echo
        // and with a dumb terminal neither ash nor bash redraws the line that we type.
        loop {
            self.serial += 1;
            let n = self.serial;
            self.send_line(&format!(
                "stty -echo cols 500 2>/dev/null; TERM=dumb PS1= PS2=; export TERM; \
                 dmesg -n 1 2>/dev/null; printf 'shell-%s-%d.\\n' ready {n}"
            ));
            let ready = format!("shell-ready-{n}.");
            match self.try_expect_any(&[&ready, "ogin incorrect"], Duration::from_secs(5)) {
                Ok((0, _)) => return Ok(()),
                Ok(_) => return Err(self.report("the guest refused the password")),
                Err(e) if Instant::now() > end || !self.is_running() => return Err(e),
                // A line that arrived in part may have left the shell within quotes: Ctrl-C.
                Err(_) => {
                    self.send_line("\x03");
                    std::thread::sleep(Duration::from_millis(500));
                }
            }
        }
    }

    /// Runs a command in the guest's shell. Gives its exit code and what it printed (stdout and
    /// stderr), without the trailing newline. Its stdin is empty.
    pub fn try_run(&mut self, line: &str, limit: Duration) -> Result<(i32, String), String> {
        self.serial += 1;
        let n = self.serial;
        // The format strings keep the markers out of an echo. The end marker comes twice, in case
        // a kernel message tears one.
        self.send_line(&format!(
            "printf '<%s-{n}>\\n' begin; {{ {line}\n}} </dev/null 2>&1; r=$?; \
             printf '\\n<%s-{n}:%d>\\n<%s-{n}:%d>\\n' end $r end $r"
        ));
        self.try_expect(&format!("<begin-{n}>"), limit)?;
        let end = format!("<end-{n}:");
        let mut output = self.try_expect(&end, limit)?;
        let code = self.try_expect(">", Duration::from_secs(10))?;
        let code = code.trim_end_matches('>').parse();
        let code: i32 = code.map_err(|e| self.report(&format!("torn end marker: {e}")))?;
        output.truncate(output.len() - end.len());
        Ok((code, plain(&output).trim_matches('\n').to_string()))
    }

    /// [`Guest::try_run`] with a minute's limit, and a panic when the guest does not answer.
    pub fn run(&mut self, line: &str) -> (i32, String) {
        self.try_run(line, Duration::from_secs(60)).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Runs a command that must succeed and gives what it printed.
    pub fn run_ok(&mut self, line: &str) -> String {
        let (code, output) = self.run(line);
        assert_eq!(code, 0, "`{line}` failed in the guest: {output}");
        output
    }

    /// Types `poweroff` and waits until QEMU has ended.
    pub fn poweroff_and_wait(&mut self, limit: Duration) {
        self.send_line("poweroff");
        self.wait(limit);
    }

    /// Types `reboot`; the console's output until then is consumed, so that the next
    /// [`Guest::login`] waits for the new system.
    pub fn reboot(&mut self, limit: Duration) {
        self.send_line("sync; reboot");
        self.seen = self.console.lock().bytes.len();
        // `dmesg -n 1` may hide "Restarting system" and `quiet` the kernel's first line; the prompt
        // comes in any case and is left for login to find.
        let wanted = ["Restarting system", "Linux version", "login:"];
        let (which, _) = self.try_expect_any(&wanted, limit).unwrap_or_else(|e| panic!("{e}"));
        if wanted[which] == "login:" {
            self.seen -= "login:".len();
        }
    }

    /// Waits until QEMU has ended by itself.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + stretch(limit);
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status;
            }
            if Instant::now() > end {
                panic!("{}", self.report("timed out waiting for QEMU to end"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// True while QEMU runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Ends QEMU at once, like pulling the plug.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// `what` with QEMU's arguments and the end of its output.
    fn report(&self, what: &str) -> String {
        let console = self.console();
        let tail: Vec<_> = console.lines().collect();
        let tail = tail[tail.len().saturating_sub(60)..].join("\n");
        let errors = String::from_utf8_lossy(&self.errors.lock().bytes).into_owned();
        let args: Vec<_> = self.args.iter().map(|a| a.to_string_lossy()).collect();
        format!(
            "{what}, {:.1} s after the start of qemu-system-x86_64 {}\n--- QEMU's stderr\n{errors}\n\
             --- end of the console\n{tail}\n---",
            self.uptime().as_secs_f32(),
            args.join(" "),
        )
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

fn stretch(limit: Duration) -> Duration {
    let factor = std::env::var("SYNTHDISK_TEST_TIME_FACTOR").ok().and_then(|f| f.parse().ok());
    limit.mul_f64(factor.unwrap_or(1.0))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// Text without carriage returns and terminal control sequences (`ESC [ … letter`).
pub fn plain(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\r' => {}
            '\x1b' => {
                if chars.next() == Some('[') {
                    chars.by_ref().find(|c| c.is_ascii_alphabetic());
                }
            }
            c => result.push(c),
        }
    }
    result
}
