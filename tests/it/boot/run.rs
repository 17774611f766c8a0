//! `synthdisk run` with real guests in QEMU.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::guests::mini_guest;
use crate::common::hash::Untouched;
use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, command, run_text, text};
use crate::common::slots::Slot;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A directory in which private mounts are made, and the right to boot guests.
struct Home {
    dir: TempDir,
    _slot: Arc<Slot>,
}

impl Home {
    fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn private() -> Home {
    let dir = TempDir::with_prefix("synthdisk-boot-run-").expect("a temporary directory");
    Home { dir, _slot: Slot::take() }
}

fn start(home: &Home, args: &[&str]) -> Command {
    let mut command = command(SYNTHDISK);
    let accel = std::env::var("SYNTHDISK_TEST_ACCEL").unwrap_or_else(|_| "tcg".to_string());
    command
        .args(["run", "--accel", &accel, "--memory", "256"])
        .args(args)
        .env("XDG_RUNTIME_DIR", home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn finish(home: &Home, args: &[&str]) -> Output {
    start(home, args).output().expect("synthdisk runs")
}

/// A private directory, mount or process that is left, if there is one.
fn left(home: &Path) -> Option<String> {
    let shown = home.to_string_lossy();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    if let Some(line) = mounts.lines().find(|l| l.contains(&*shown)) {
        return Some(line.to_owned());
    }
    let files = fs::read_dir(home).unwrap().flatten().map(|e| e.path());
    if let Some(dir) = files.into_iter().find(|p| p.is_dir()) {
        return Some(dir.display().to_string());
    }
    let lines = fs::read_dir("/proc").unwrap().flatten().map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ")
    });
    lines.into_iter().find(|line| line.contains(&*shown))
}

/// No private directory, no mount and no process is left.
fn assert_clean(home: &Path) {
    assert_eq!(left(home), None);
}

fn config(dir: &Path, name: &str, image: &Path, more: &str) -> PathBuf {
    let path = dir.join(format!("{name}.cfg"));
    let text = format!(
        "name = '{name}'\nmemory = 256\n{more}\ndisk = ['file:{},xvda1,w']\n",
        image.display()
    );
    fs::write(&path, text).unwrap();
    path
}

#[test]
#[ignore = "boots a guest"]
fn the_login_prompt_comes() {
    let (home, image) = (private(), mini_guest());
    let untouched = Untouched::remember(&image);
    let log = home.path().join("console");
    let args = ["--expect", "login:", "--timeout", "5m", "--log", &log.to_string_lossy()];
    let result = finish(&home, &[&args[..], &[&image.to_string_lossy()]].concat());
    let stdout = text(&result.stdout);
    assert_eq!(result.status.code(), Some(0), "{stdout}{}", text(&result.stderr));
    assert!(stdout.contains(", kernel after "), "{stdout}");
    assert!(fs::read_to_string(&log).unwrap().contains("Linux version"));
    assert_clean(home.path());
    untouched.check();
}

#[test]
#[ignore = "boots guests"]
fn every_bus_boots() {
    let (home, image) = (private(), mini_guest());
    // The small guest has no driver for AHCI.
    for bus in ["scsi", "nvme", "ide"] {
        let args = ["--bus", bus, "--expect", "login:", "--timeout", "5m"];
        let result = finish(&home, &[&args[..], &[&image.to_string_lossy()]].concat());
        assert_eq!(result.status.code(), Some(0), "{bus}: {}", text(&result.stderr));
    }
    assert_clean(home.path());
}

#[test]
#[ignore = "boots a guest"]
fn a_text_that_does_not_come_fails() {
    let (home, image) = (private(), mini_guest());
    let args = ["--expect", "no such text", "--timeout", "20s", &image.to_string_lossy()];
    let result = finish(&home, &args);
    let stderr = text(&result.stderr);
    assert_eq!(result.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("not within 20 s; last line, "), "{stderr}");
    assert_clean(home.path());
}

#[test]
#[ignore = "boots a guest"]
fn a_panic_is_a_verdict_of_its_own() {
    let (home, image) = (private(), mini_guest());
    let args = [
        "--append",
        "rdinit=/nothing",
        "--expect",
        "login:",
        "--timeout",
        "5m",
        "--",
        "-no-reboot",
    ];
    let image = image.to_string_lossy();
    let result = finish(&home, &[&[&*image], &args[..]].concat());
    let stderr = text(&result.stderr);
    assert_eq!(result.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("kernel panic: VFS: Unable to mount root fs"), "{stderr}");
    assert_clean(home.path());
}

#[test]
#[ignore = "boots a guest"]
fn the_loaders_error_is_a_verdict() {
    let (home, image) = (private(), mini_guest());
    let args = ["--memory", "24", "--expect", "login:", &image.to_string_lossy()];
    let mut command = command(SYNTHDISK);
    let result = command
        .args(["run", "--accel", "tcg"])
        .args(args)
        .env("XDG_RUNTIME_DIR", home.path())
        .output()
        .unwrap();
    let stderr = text(&result.stderr);
    assert_eq!(result.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the boot loader stopped: not enough memory"), "{stderr}");
    assert_clean(home.path());
}

#[test]
#[ignore = "boots guests"]
fn several_guests_at_a_time() {
    let (home, image) = (private(), mini_guest());
    let untouched = Untouched::remember(&image);
    let good = config(home.path(), "good", &image, "vif = ['mac=00:16:3e:00:00:07']");
    let also = config(home.path(), "also", &image, "");
    let bad =
        config(home.path(), "bad", &image, "bootloader = 'pygrub'\nextra = 'rdinit=/nothing'");
    let (xml, json) = (home.path().join("r.xml"), home.path().join("r.json"));
    let configs = [good, bad, also].map(|c| c.to_string_lossy().into_owned());
    let mut args = vec!["--jobs", "2", "--expect", "login:", "--timeout", "5m"];
    configs.iter().for_each(|c| args.extend(["--config", c]));
    let (xml, json) = (xml.to_string_lossy(), json.to_string_lossy());
    args.extend(["--junit", &xml, "--json", &json]);
    let result = finish(&home, &args);
    let (stdout, stderr) = (text(&result.stdout), text(&result.stderr));
    assert_eq!(result.status.code(), Some(1), "{stdout}{stderr}");
    let verdicts: Vec<Vec<&str>> =
        stdout.lines().map(|l| l.split_whitespace().take(2).collect()).collect();
    let expected =
        [["GUEST", "VERDICT"], ["good", "passed"], ["bad", "failed"], ["also", "passed"]];
    assert_eq!(verdicts, expected, "{stdout}{stderr}");
    let count = |path: &str| run_text("xmllint", &["--xpath", path, &xml]);
    assert_eq!(count("count(//testcase)"), "3");
    assert_eq!(count("string(//testcase[failure]/@name)"), "bad");
    let parsed: serde_json::Value = serde_json::from_slice(&fs::read(&*json).unwrap()).unwrap();
    assert!(parsed["guests"][0]["seconds_to_kernel"].as_f64().unwrap() > 0.0);
    assert_clean(home.path());
    untouched.check();
}

/// A guest whose console is our two pipes, as with a terminal.
struct Terminal {
    child: Child,
    seen: String,
}

impl Terminal {
    fn boot(home: &Home, args: &[&str]) -> Self {
        let child = start(home, args).stdin(Stdio::piped()).spawn().expect("synthdisk runs");
        let mut this = Self { child, seen: String::new() };
        this.until("login:");
        this
    }

    fn until(&mut self, wanted: &str) {
        let end = Instant::now() + Duration::from_secs(300);
        let out = self.child.stdout.as_mut().expect("a pipe");
        let mut buffer = [0; 4096];
        while !self.seen.contains(wanted) {
            let n = out.read(&mut buffer).expect("a pipe can be read");
            assert!(n > 0 && Instant::now() < end, "no `{wanted}` in: {}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        self.seen.clear();
    }

    fn type_in(&mut self, keys: &[u8]) {
        self.child.stdin.as_mut().expect("a pipe").write_all(keys).expect("QEMU reads");
    }

    fn log_in(&mut self) {
        self.type_in(b"root\n");
        self.until("assword:");
        // The echo goes off only after the prompt, and nothing tells when.
        std::thread::sleep(Duration::from_millis(500));
        self.type_in(b"root\n");
        self.until("#");
    }

    /// Exit code and standard error.
    fn wait(mut self) -> (Option<i32>, String) {
        let mut rest = Vec::new();
        let _ = self.child.stdout.take().expect("a pipe").read_to_end(&mut rest);
        let mut said = String::new();
        let _ = self.child.stderr.take().expect("a pipe").read_to_string(&mut said);
        (self.child.wait().unwrap().code(), said)
    }
}

#[test]
#[ignore = "boots guests"]
fn a_guest_on_the_terminal() {
    let (home, image) = (private(), mini_guest());
    let untouched = Untouched::remember(&image);
    let image = image.to_string_lossy().into_owned();

    // The guest powers itself off. Writes are gone with it.
    let log = home.path().join("console");
    let mut guest = Terminal::boot(&home, &["--log", &log.to_string_lossy(), &image]);
    guest.log_in();
    guest.type_in(b"echo written >/root/file; sync; poweroff -f\n");
    let (code, said) = guest.wait();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("boots:   Mini guest"), "{said}");
    assert!(fs::read_to_string(&log).unwrap().contains("login:"));
    assert_clean(home.path());

    // The user quits QEMU.
    let mut guest = Terminal::boot(&home, &[&image]);
    guest.type_in(b"\x01x");
    assert_eq!(guest.wait().0, Some(0));
    assert_clean(home.path());

    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let guest = Terminal::boot(&home, &[&image]);
        kill(Pid::from_raw(guest.child.id() as i32), signal).unwrap();
        let (code, said) = guest.wait();
        assert_eq!(code, Some(1));
        assert!(said.ends_with(&format!("synthdisk: ended by {signal}\n")), "{said}");
        assert_clean(home.path());
    }

    // Killed with SIGKILL.
    let mut guest = Terminal::boot(&home, &[&image]);
    guest.child.kill().unwrap();
    guest.wait();
    let end = Instant::now() + Duration::from_secs(20);
    // The keeper outlives it, and cleans up.
    while let Some(left) = left(home.path()) {
        assert!(Instant::now() < end, "this stays: {left}");
        std::thread::sleep(Duration::from_millis(50));
    }
    untouched.check();
}

/// A guest moves to a file while it runs, and one that is faster than the copy is waited for.
#[test]
#[ignore = "boots guests"]
fn a_guest_settles_while_it_runs() {
    let (home, image) = (private(), mini_guest());
    let untouched = Untouched::remember(&image);
    let image = image.to_string_lossy().into_owned();
    let files = TempDir::with_prefix("synthdisk-boot-run-").expect("a temporary directory");
    let arg = |name: &str| files.path().join(name).to_string_lossy().into_owned();

    let out = arg("moved.raw");
    let mut guest = Terminal::boot(&home, &["--settle", &out, &image]);
    guest.log_in();
    guest.type_in(b"echo first >/root/file; sync\n");
    let end = Instant::now() + Duration::from_secs(300);
    while !Path::new(&out).exists() {
        assert!(Instant::now() < end, "the guest does not settle");
        std::thread::sleep(Duration::from_millis(20));
    }
    guest.type_in(b"echo second >>/root/file; sync; poweroff -f\n");
    let (code, said) = guest.wait();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("settled: ") && !said.contains("does not settle"), "{said}");
    assert_clean(home.path());

    let out = arg("late.qcow2");
    let mut guest = Terminal::boot(&home, &["--settle", &out, "--settle-rate", "4M", &image]);
    guest.log_in();
    guest.type_in(b"echo first >/root/file; echo second >>/root/file; sync; poweroff -f\n");
    let (code, said) = guest.wait();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("settled: "), "{said}");
    assert_clean(home.path());
    untouched.check();

    let expected = Some("first\nsecond\n".to_owned());
    for file in [arg("moved.raw"), out] {
        let mount = Mount::new(&[], &file);
        assert_eq!(mount.guest_file("/root/file"), expected, "{file}");
        mount.fsck();
    }
}

/// The small guest, which has no systemd, logs in, answers and powers off; its screen is a picture.
#[test]
#[ignore = "boots QEMU"]
fn a_running_guest_is_checked() {
    let image = mini_guest();
    let untouched = Untouched::remember(&image);
    let home = private();
    let (json, picture) = (home.path().join("r.json"), home.path().join("screen.png"));
    let script = home.path().join("mine.sh");
    fs::write(&script, "#!/bin/sh\ngrep -q ^root: /etc/shadow && test -d /boot\n").unwrap();
    let [written, shown, script] = [&json, &picture, &script].map(|p| p.to_string_lossy());
    // Without a card: the guest's DHCP client finds no script that would set an address.
    let args =
        ["--net", "none", "--check", "running", "--check-script", &script, "--json", &written];
    let image = image.to_string_lossy();
    let args = [&args[..], &["--screenshot", &shown, &image]].concat();
    let result = finish(&home, &args);
    assert!(result.status.success(), "{}", text(&result.stderr));
    let parsed: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let checks = parsed["guests"][0]["checks"].as_array().unwrap().clone();
    for name in ["console", "swap", "root", "clock", "1-mine.sh", "poweroff", "filesystems"] {
        let found = checks.iter().find(|c| c["name"] == name);
        assert_eq!(found.map(|c| &c["outcome"]), Some(&"ok".into()), "{name}: {checks:?}");
    }
    for (name, part) in [("filesystems", "part1.raw (ext4)"), ("address", "no network card")] {
        let found = checks.iter().find(|c| c["name"] == name).unwrap();
        assert!(found["detail"].as_str().unwrap().contains(part), "{found}");
    }
    assert!(fs::read(&picture).unwrap().starts_with(b"\x89PNG"));
    for path in [json, picture, home.path().join("mine.sh")] {
        fs::remove_file(path).unwrap();
    }
    assert_clean(home.path());
    untouched.check();
}

/// What other tests boot in another way; only in `scripts/test --matrix`.
mod matrix {
    use super::*;
    use crate::common::guests::domu;

    /// A real domU of xen-tools runs as it should.
    #[test]
    #[ignore = "boots QEMU"]
    fn a_debian_guest_runs_without_a_failed_unit() {
        let config = &domu("bookworm").config;
        let home = private();
        let json = home.path().join("r.json");
        let written = json.to_string_lossy();
        let args = ["--check", "running", "--timeout", "15m", "--json", &written];
        let config = config.to_string_lossy();
        let result = finish(&home, &[&args[..], &["--config", &config]].concat());
        assert!(result.status.success(), "{}", text(&result.stderr));
        let parsed: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        let checks = parsed["guests"][0]["checks"].as_array().unwrap().clone();
        assert!(checks.iter().all(|c| c["outcome"] == "ok"), "{checks:?}");
        fs::remove_file(json).unwrap();
        assert_clean(home.path());
    }
}
