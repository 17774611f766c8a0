//! A confined process that was taken over: what it tries fails, or kills it.
//!
//! The process is this test program, started again for a single test, [`confined_process`]. It
//! confines itself and then tries what [`ATTEMPT`] names.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::getppid;
use synthdisk::sandbox::{Confined, Layer, Limits, Mode, Profile, confine, unprivileged};

use crate::common::process::is_root;

const ATTEMPT: &str = "SYNTHDISK_TEST_ATTEMPT";
const PROFILE: &str = "SYNTHDISK_TEST_PROFILE";
/// Exit code of a process whose attempt failed as it should.
const REFUSED: i32 = 17;
/// Exit code of a process whose attempt succeeded.
const SUCCEEDED: i32 = 18;

/// A file that exists and that every user can read.
const EVERYBODYS: &str = "/etc/passwd";

type Attempt = (&'static str, fn(&Before) -> bool);

/// What the process has opened before it is confined.
struct Before {
    file: File,
    socket: UnixStream,
    other: UnixStream,
    overlay: File,
    etc: File,
}

impl Before {
    fn new() -> Self {
        let (socket, other) = UnixStream::pair().unwrap();
        let [file, etc] = [EVERYBODYS, "/etc"].map(|path| File::open(path).unwrap());
        Self { file, socket, other, overlay: tempfile::tempfile().unwrap(), etc }
    }
}

/// What a server must be able to do.
const NEEDED: &[Attempt] = &[
    ("read", |b| b.file.read_at(&mut [0; 10], 0).is_ok()),
    ("stat", |b| b.file.metadata().is_ok_and(|meta| meta.len() > 0)),
    ("duplicate", |b| b.file.try_clone().is_ok()),
    ("thread", |_| std::thread::spawn(|| vec![1_u8; 10 << 20].len()).join().is_ok()),
    ("random", |_| std::collections::HashSet::from([1]).contains(&1)),
    ("sleep", |_| {
        std::thread::sleep(std::time::Duration::from_millis(1));
        true
    }),
    ("time", |_| std::time::SystemTime::now() > std::time::UNIX_EPOCH),
    ("socket pair", |b| {
        let mut byte = [0];
        (&b.socket).write_all(b"x").is_ok() && (&b.other).read_exact(&mut byte).is_ok()
    }),
    ("time limit", |b| b.socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).is_ok()),
    ("pass a file", |b| {
        use synthdisk::sandbox::{receive_descriptor, send_descriptor};
        send_descriptor(&b.socket, b'f', &b.file).is_ok()
            && receive_descriptor(&b.other).is_ok_and(|got| got.is_some_and(|(_, fd)| fd.is_some()))
    }),
    // The message, without a backtrace, is written and unwinding works.
    ("panic", |_| std::thread::spawn(|| panic!("on purpose")).join().is_err()),
];

/// What only an intruder does.
const FORBIDDEN: &[Attempt] = &[
    ("open", |_| File::open(EVERYBODYS).is_ok()),
    ("create", |_| File::create_new("/tmp/synthdisk-test-escaped").is_ok()),
    ("list", |_| std::fs::read_dir("/").is_ok()),
    ("inspect /proc", |_| File::open("/proc/self/environ").is_ok()),
    ("execute", |_| Command::new("/bin/true").status().is_ok()),
    ("execute in place", |_| {
        use std::os::unix::process::CommandExt;
        let _ = Command::new("/bin/true").exec();
        false
    }),
    ("connect by TCP", |_| TcpStream::connect("127.0.0.1:9").is_ok()),
    ("send by UDP", |_| UdpSocket::bind("127.0.0.1:0").is_ok()),
    ("connect to a service", |_| UnixStream::connect("/run/dbus/system_bus_socket").is_ok()),
    ("signal", |_| kill(getppid(), None).is_ok()),
    ("kill", |_| kill(getppid(), Signal::SIGCONT).is_ok()),
    ("read another process's memory", |_| {
        let mut byte = [0];
        let remote = RemoteIoVec { base: 0x1000, len: 1 };
        process_vm_readv(getppid(), &mut [IoSliceMut::new(&mut byte)], &[remote]).is_ok()
    }),
    ("mount", |_| {
        use nix::mount::{MsFlags, mount};
        let none = None::<&str>;
        mount(Some("x"), "/", Some("tmpfs"), MsFlags::empty(), none).is_ok()
    }),
    ("unshare", |_| nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).is_ok()),
    ("become root", |_| nix::unistd::setuid(0.into()).is_ok()),
    ("change root", |_| nix::unistd::chroot("/").is_ok()),
    ("change directory", |_| nix::unistd::chdir("/etc").is_ok()),
    ("raise limits", |_| {
        use rustix::process::{Resource, Rlimit, setrlimit};
        setrlimit(Resource::Nofile, Rlimit { current: Some(100), maximum: Some(100) }).is_ok()
    }),
    ("open beneath a directory", |b| {
        use nix::fcntl::{OFlag, openat};
        openat(b.etc.as_fd(), "passwd", OFlag::O_RDONLY, nix::sys::stat::Mode::empty()).is_ok()
    }),
];

/// What a parser does not need, but a server does.
const NOT_FOR_PARSERS: &[Attempt] = &[
    ("write at an offset", |b| b.overlay.write_at(b"x", 0).is_ok()),
    ("change a length", |b| b.overlay.set_len(10).is_ok()),
];

/// Runs in a process of its own, which the other tests start.
#[test]
#[ignore = "started by other tests, as a process of its own"]
fn confined_process() {
    let Ok(name) = std::env::var(ATTEMPT) else { return };
    let profile = match std::env::var(PROFILE).as_deref() {
        Ok("parse") => Profile::Parse(Limits { memory: Some(1 << 30), ..Limits::default() }),
        _ => Profile::Serve,
    };
    let before = Before::new();
    let confined = confine(profile, Mode::Auto).unwrap();
    if name == "report" {
        println!("confined: {}", serde_json::to_string(&confined).unwrap());
        std::process::exit(0);
    }
    let all = [NEEDED, FORBIDDEN, NOT_FOR_PARSERS].concat();
    let (_, attempt) = all.iter().find(|(known, _)| *known == name).unwrap();
    std::process::exit(if attempt(&before) { SUCCEEDED } else { REFUSED });
}

/// Starts [`confined_process`] with one attempt; returns its end and its output.
///
/// The process has two threads, and ends from the one that is not libtest's own. That was seen to be a
/// SIGSEGV once in some thousand times, after the attempt; such an end is no answer, so it tries again once.
fn try_in(profile: &str, attempt: &str) -> (ExitStatus, String) {
    let first = try_once(profile, attempt);
    match first.0.signal() {
        Some(signal) if signal == Signal::SIGSEGV as i32 => try_once(profile, attempt),
        _ => first,
    }
}

fn try_once(profile: &str, attempt: &str) -> (ExitStatus, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandbox::attempts::confined_process", "--ignored", "--nocapture"])
        .env(ATTEMPT, attempt)
        .env(PROFILE, profile)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status, text.into_owned())
}

fn is_refused(status: ExitStatus) -> bool {
    status.code() == Some(REFUSED) || status.signal() == Some(Signal::SIGSYS as i32)
}

#[test]
fn what_it_needs_still_works() {
    for profile in ["serve", "parse"] {
        for (name, _) in NEEDED {
            let (status, text) = try_in(profile, name);
            assert_eq!(status.code(), Some(SUCCEEDED), "{profile}: {name}: {status}\n{text}");
        }
    }
    for (name, _) in NOT_FOR_PARSERS {
        let (status, text) = try_in("serve", name);
        assert_eq!(status.code(), Some(SUCCEEDED), "{name}: {status}\n{text}");
    }
}

#[test]
fn what_an_intruder_tries_fails() {
    for profile in ["serve", "parse"] {
        for (name, _) in FORBIDDEN {
            let (status, text) = try_in(profile, name);
            assert!(is_refused(status), "{profile}: {name}: {status}\n{text}");
        }
    }
    for (name, _) in NOT_FOR_PARSERS {
        let (status, text) = try_in("parse", name);
        assert!(is_refused(status), "parse: {name}: {status}\n{text}");
    }
    // Executing is not just refused.
    let (status, text) = try_in("serve", "execute in place");
    assert_eq!(status.signal(), Some(Signal::SIGSYS as i32), "{status}\n{text}");
}

/// The attempts above would prove nothing if they failed in any process.
#[test]
fn the_attempts_work_without_confinement() {
    let before = Before::new();
    let names = ["open", "list", "inspect /proc", "execute", "send by UDP", "signal", "kill"];
    for name in names.into_iter().chain(["open beneath a directory"]) {
        let (_, attempt) = FORBIDDEN.iter().find(|(known, _)| *known == name).unwrap();
        assert!(attempt(&before), "{name}");
    }
}

#[test]
fn the_report_says_what_is_in_force() {
    let (status, text) = try_in("serve", "report");
    assert!(status.success(), "{text}");
    let line = text.lines().find_map(|line| line.split_once("confined: ")).unwrap().1;
    let confined: Confined = serde_json::from_str(line).unwrap();
    assert_eq!(confined.mode, Mode::Auto);
    for layer in [Layer::Account, Layer::NoNewPrivileges, Layer::NotDumpable, Layer::SystemCalls] {
        assert!(confined.active.contains(&layer), "{confined}");
    }
    if is_root() {
        assert!(confined.active.contains(&Layer::EmptyRoot), "{confined}");
        assert_ne!(unprivileged().uid, 0);
    }
    let landlock = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    if landlock.contains("landlock") {
        assert!(confined.active.contains(&Layer::Landlock), "{confined}");
    }
}
