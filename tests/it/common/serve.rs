//! A guard for `synthdisk serve`.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::mount::{children, has_ended, is_started_as};
use super::process::{SYNTHDISK, command, is_root, text};

/// How long a server may take to end on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running NBD server, ended when dropped.
pub struct Served {
    home: TempDir,
    /// What `synthdisk serve` printed.
    pub output: Output,
    keeper: i32,
    server: i32,
}

impl Served {
    /// Runs `synthdisk serve --nbd SOCKET OPTIONS IMAGE` in the background; it must succeed.
    pub fn new(options: &[&str], image: impl AsRef<Path>) -> Self {
        Self::of(options, &[image.as_ref()])
    }

    /// Like [`Served::new`], for any number of images (none with `--config`).
    pub fn of(options: &[&str], images: &[&Path]) -> Self {
        Self::by(home(), command(SYNTHDISK), options, images)
    }

    /// As [`Served::of`], by a user without rights, who can use this copy of the program.
    pub fn by_nobody(program: &Path, options: &[&str], images: &[&Path]) -> Self {
        let home = home();
        if !is_root() {
            return Self::by(home, command(program), options, images);
        }
        chown(home.path(), Some(65534), Some(65534)).expect("our own directory");
        let mut words = command("setpriv");
        words.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program);
        Self::by(home, words, options, images)
    }

    /// As [`Served::of`], by the program that `words` start.
    fn by(home: TempDir, mut words: Command, options: &[&str], images: &[&Path]) -> Self {
        let socket = home.path().join("s");
        words.args(["serve", "--nbd"]).arg(&socket).args(options).args(images);
        let output = words.output().expect("the program can be started");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let keeper = keeper_of(&socket);
        let servers: Vec<i32> =
            children(keeper).into_iter().filter(|pid| is_started_as(*pid, "serve")).collect();
        assert_eq!(servers.len(), 1, "servers of {}", socket.display());
        Self { home, output, keeper, server: servers[0] }
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("s")
    }

    /// The URI of an export.
    pub fn uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.socket().display())
    }

    /// What it printed to stdout and stderr.
    pub fn printed(&self) -> String {
        text(&self.output.stdout) + &text(&self.output.stderr)
    }

    /// The process that keeps the socket.
    pub fn keeper(&self) -> i32 {
        self.keeper
    }

    /// The process that serves.
    pub fn server(&self) -> i32 {
        self.server
    }

    /// Sends `signal` to the keeper, and waits until all processes have ended.
    pub fn end_by(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.keeper), signal);
        self.wait();
    }

    /// Waits until all processes have ended.
    pub fn wait(&self) {
        let end = Instant::now() + PATIENCE;
        while !has_ended(self.keeper) || !has_ended(self.server) {
            assert!(Instant::now() < end, "the server of {} goes on", self.socket().display());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.keeper), Signal::SIGTERM);
        let end = Instant::now() + PATIENCE;
        while !has_ended(self.server) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn home() -> TempDir {
    TempDir::with_prefix("synthdisk-nbd-").expect("a temporary directory")
}

/// The process that keeps `socket`, found by its arguments.
fn keeper_of(socket: &Path) -> i32 {
    let wanted = socket.as_os_str().as_encoded_bytes();
    let processes = std::fs::read_dir("/proc").expect("/proc is there").flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_keeper = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        words.get(2) == Some(&&b"mount"[..]) && words.contains(&wanted)
    };
    pids.find(is_keeper).expect("the process that keeps the socket")
}
