//! A QEMU that runs firmware only, whose disk is written to by commands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use synthdisk::qemu::{Qmp, find_qemu};
use tempfile::TempDir;

use super::arg;
use crate::common::mount::Mount;
use crate::common::overlay::wait_until;
use crate::common::process::{SYNTHDISK, command};

/// A command to the device that uses the disk.
const DEVICE: &str = "qemu-io -d /machine/peripheral/vd0/virtio-backend";

/// The machine, killed when dropped.
pub struct Machine {
    child: Child,
    home: TempDir,
    /// The socket for the program under test.
    pub socket: PathBuf,
    qmp: Qmp<'static>,
}

impl Machine {
    /// With the disk of `mount`.
    pub fn start(mount: &Mount) -> Self {
        let node = format!(
            "driver=raw,node-name=d0,discard=unmap,file.driver=file,file.filename={}",
            arg(&mount.disk())
        );
        Self::with(&["-blockdev", &node, "-device", "virtio-blk-pci,drive=d0,id=vd0"])
    }

    /// With the disk of `mount`, as a user names it: its node has no name.
    pub fn start_with_drive(mount: &Mount) -> Self {
        let drive = format!("file={},format=raw,if=none,id=first", arg(&mount.disk()));
        Self::with(&["-drive", &drive, "-device", "virtio-blk-pci,drive=first,id=vd0"])
    }

    fn with(disk: &[&str]) -> Self {
        let home = TempDir::with_prefix("synthdisk-test-").unwrap();
        let sockets = [home.path().join("theirs"), home.path().join("ours")];
        let mut qemu = command(find_qemu().expect("QEMU is installed"));
        qemu.args(["-nodefaults", "-display", "none", "-accel", "tcg", "-m", "64"]);
        // The firmware finds nothing to boot.
        qemu.args(["-boot", "strict=on"]).args(disk);
        for socket in &sockets {
            qemu.arg("-qmp").arg(format!("unix:{},server=on,wait=off", arg(socket)));
        }
        let child = qemu.stdin(Stdio::null()).spawn().expect("QEMU starts");
        let [socket, own] = sockets;
        wait_until("QEMU listens", || Qmp::connect(&own, None).is_ok());
        let qmp = Qmp::connect(&own, None).unwrap();
        Self { child, home, socket, qmp }
    }

    /// Execute a command.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Value {
        self.qmp.execute(command, arguments).unwrap()
    }

    fn monitor(&mut self, line: &str) {
        let said = self.execute("human-monitor-command", json!({ "command-line": line }));
        // `qemu-io` says nothing if it succeeds quietly.
        assert_eq!(said, "", "{line}");
    }

    /// Write `len` bytes as the guest would.
    pub fn write(&mut self, offset: u64, byte: u8, len: u64) {
        self.monitor(&format!("{DEVICE} \"write -q -P {byte} {offset} {len}\""));
    }

    /// Write bytes as the guest would.
    pub fn write_bytes(&mut self, offset: u64, bytes: &[u8]) {
        let file = self.home.path().join("part");
        fs::write(&file, bytes).unwrap();
        let (file, len) = (arg(&file).to_owned(), bytes.len());
        self.monitor(&format!("{DEVICE} \"write -q -s {file} {offset} {len}\""));
    }

    /// Whether the machine is running: neither ended nor paused.
    pub fn is_running(&mut self) -> bool {
        self.execute("query-status", json!({}))["running"] == true
    }

    /// Start the program.
    pub fn spawn(&self, args: &[&str]) -> Child {
        command(SYNTHDISK).args(args).stderr(Stdio::null()).spawn().expect("our own binary")
    }

    /// The jobs that copy disks.
    pub fn jobs(&mut self) -> Vec<Value> {
        self.execute("query-block-jobs", json!({})).as_array().unwrap().clone()
    }

    /// Wait until a disk is being copied, and return the name of the job.
    pub fn await_job(&mut self) -> String {
        self.await_state("no job", |jobs| jobs.first()?["device"].as_str().map(str::to_owned))
    }

    /// Wait until the job has copied `bytes`.
    pub fn await_progress(&mut self, job: &str, bytes: u64) {
        self.await_state("no progress", |jobs| {
            let job = jobs.iter().find(|j| j["device"] == job)?;
            (job["offset"].as_u64()? >= bytes).then_some(())
        })
    }

    fn await_state<T>(&mut self, what: &str, find: impl Fn(&[Value]) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let jobs = self.jobs();
            if let Some(found) = find(&jobs) {
                return found;
            }
            assert!(Instant::now() < deadline, "{what}: {jobs:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Names of nodes that the program has made.
    pub fn nodes(&mut self) -> Vec<String> {
        let nodes = self.execute("query-named-block-nodes", json!({ "flat": true }));
        let names = nodes.as_array().unwrap().iter().map(|n| n["node-name"].as_str().unwrap());
        names.filter(|name| name.starts_with("synthdisk")).map(str::to_owned).collect()
    }

    /// The files beneath `dir` that QEMU has open.
    pub fn open_files(&self, dir: &Path) -> Vec<String> {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let files = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        files.filter(|f| f.starts_with(dir)).map(|f| f.display().to_string()).collect()
    }

    /// Do something with a file that QEMU has open, while it is paused and all is flushed.
    pub fn lock_free(&mut self, f: impl FnOnce()) {
        let running = self.is_running();
        self.execute("stop", json!({}));
        f();
        if running {
            self.execute("cont", json!({}));
        }
    }

    /// End it.
    pub fn quit(mut self) {
        let _ = self.qmp.execute("quit", json!({}));
        self.child.wait().unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
