//! `synthdisk run` with a QEMU that is a shell script: arguments, verdicts, and what is left behind
//! however the command ends. Real guests are in `boot_run.rs`.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::process::{SYNTHDISK, command, expect_failure, run, run_text, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// An image, a fake QEMU, and a directory in which private mounts are made.
struct Scene {
    home: TempDir,
}

impl Scene {
    /// `script` is what QEMU does: `$disk` is the boot disk, and `$home` the scene's directory.
    fn new(script: &str) -> Self {
        let home = TempDir::with_prefix("synthdisk-run-cli-").expect("a temporary directory");
        let scene = Self { home };
        for dir in ["run", "bin"] {
            fs::create_dir(scene.path(dir)).expect("mkdir in our own directory");
        }
        let image = scene.path("web1.img");
        fs::File::create(&image).unwrap().set_len(4 << 20).unwrap();
        run("mke2fs", &["-q", "-t", "ext4", &image.to_string_lossy()]);
        let qemu = scene.path("bin/qemu-system-x86_64");
        let script = format!(
            "#!/bin/bash\nhome={}\ndisk=$(printf '%s\\n' \"$@\" | \
             sed -n 's/.*file.filename=\\([^,]*\\).*/\\1/p' | head -n 1)\n\
             printf '%s\\n' \"$@\" >$home/args\n{script}\n",
            scene.home.path().display()
        );
        fs::write(&qemu, script).unwrap();
        fs::set_permissions(&qemu, Permissions::from_mode(0o755)).unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A config for the image, under another name.
    fn config(&self, name: &str) -> PathBuf {
        let path = self.path(&format!("{name}.cfg"));
        let text = format!(
            "name = '{name}'\nmemory = 256\nvif = ['mac=00:16:3e:00:00:01']\n\
             disk = ['file:web1.img,xvda1,w']\n"
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// `synthdisk run` with the fake QEMU first in PATH.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(SYNTHDISK);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .args(["run", "--accel", "tcg", "--bootloader", "none"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("synthdisk runs")
    }

    /// `synthdisk run ARGS web1.img`.
    fn run_image(&self, args: &[&str]) -> Output {
        let image = self.path("web1.img");
        let image = image.to_string_lossy();
        self.run(&[args, &[&image]].concat())
    }

    /// Starts `run` and waits until the fake QEMU has written its process id.
    fn start(&self) -> (Child, i32) {
        let child = self.command(&[&self.path("web1.img").to_string_lossy()]).spawn().unwrap();
        let pid = self.path("pid");
        eventually("QEMU starts", || fs::read_to_string(&pid).is_ok_and(|s| s.ends_with('\n')));
        let pid = fs::read_to_string(&pid).unwrap().trim().parse().expect("a process id");
        (child, pid)
    }

    /// Processes that name the scene's directory, by what they are.
    fn processes(&self) -> Vec<(i32, String)> {
        let wanted = self.path("run").to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc is there").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
                continue;
            };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&wanted) {
                found.push((pid, line));
            }
        }
        found
    }

    /// The process among [`Scene::processes`] whose arguments begin like this.
    fn process(&self, begin: &str) -> i32 {
        let all = self.processes();
        let found = all.iter().find(|(_, line)| {
            line.split_once("synthdisk ").is_some_and(|(_, args)| args.starts_with(begin))
        });
        found.unwrap_or_else(|| panic!("no process `{begin}` among {all:?}")).0
    }

    /// Nothing of a run is there: no mount, no directory, no process.
    fn is_clean(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.path("run");
        !mounts.contains(&*dir.to_string_lossy())
            && fs::read_dir(&dir).unwrap().next().is_none()
            && self.processes().is_empty()
    }

    fn assert_clean(&self) {
        eventually("everything is cleaned up", || self.is_clean());
    }
}

/// Waits for something that happens within moments.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Holds the disk open and stays, under its own process id.
const STAY: &str = "exec 3<>\"$disk\"; echo $$ >$home/pid; exec sleep 300";

// ---- arguments -------------------------------------------------------------------------------

#[test]
fn dry_run_prints_the_command() {
    let scene = Scene::new("exit 9");
    let result = scene.run_image(&["--dry-run", "--vcpus", "2", "--memory", "2G", "--bus", "scsi"]);
    let line = text(&result.stdout);
    assert!(result.status.success(), "{}", text(&result.stderr));
    for part in [
        "/bin/qemu-system-x86_64 ",
        "guest=web1 ",
        "-m 2048M -smp 2 ",
        "file.filename=MOUNTPOINT/disk.raw",
        "cache.direct=on",
        "file.aio=threads",
        "scsi-hd,",
        "-serial mon:stdio",
        "-netdev user,",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(line.lines().count(), 1);
    scene.assert_clean();
    assert!(!scene.path("args").exists(), "QEMU was started");
}

#[test]
fn dry_run_knows_the_config_and_passes_arguments_on() {
    let scene = Scene::new("exit 9");
    let config = scene.config("db1");
    let args = ["--dry-run", "--config", &config.to_string_lossy(), "--", "-s", "a b"];
    let result = scene.run(&args);
    let line = text(&result.stdout);
    assert!(result.status.success(), "{}", text(&result.stderr));
    for part in ["guest=db1 ", "-m 256M", "mac=00:16:3e:00:00:01", " -s 'a b'\n"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[test]
fn dry_run_plans() {
    let missing = expect_failure(&["run", "--dry-run", "--accel", "tcg", "/nonexistent.img"], 1);
    assert!(missing.contains("/nonexistent.img"), "{missing}");
}

#[test]
fn contradictions_are_usage_errors() {
    for (args, part) in [
        (&["run"][..], "IMAGE"),
        (&["run", "--config", "a.cfg", "--config", "b.cfg"], "--expect"),
        (
            &["run", "--config", "a.cfg", "--config", "b.cfg", "--expect", "x", "--overlay", "o"],
            "--overlay-dir",
        ),
        (&["run", "--config", "a.cfg", "b.img"], "cannot be used with"),
        (&["run", "a.img", "--timeout", "5s"], "--expect"),
        (&["run", "a.img", "--jobs", "2"], "--expect"),
        (&["run", "a.img", "--expect", "("], "regex"),
        (&["run", "a.img", "--expect", "x", "--timeout", "soon"], "no span of time"),
        (&["run", "a.img", "--read-only", "--overlay", "o"], "cannot be used with"),
        (&["run", "a.img", "--", "-daemonize"], "-daemonize"),
    ] {
        let sentence = expect_failure(args, 2);
        assert!(sentence.contains(part), "{args:?}: {sentence}");
    }
}

#[test]
fn without_qemu() {
    let scene = Scene::new("exit 0");
    if Path::new("/usr/libexec/qemu-kvm").exists() {
        return;
    }
    let result = Command::new(SYNTHDISK)
        .env("PATH", scene.path("run"))
        .arg("run")
        .arg(scene.path("web1.img"))
        .output()
        .unwrap();
    assert_eq!(result.status.code(), Some(1));
    assert!(text(&result.stderr).contains("install the package"), "{}", text(&result.stderr));
    scene.assert_clean();
}

// ---- one guest on the terminal ---------------------------------------------------------------

#[test]
fn a_guest_that_ends_leaves_nothing() {
    // It can read and write the disk while it runs.
    let scene = Scene::new(
        "head -c 512 \"$disk\" >$home/mbr && dd if=/dev/zero of=\"$disk\" bs=512 count=1 \
         conv=notrunc status=none; ls -ld \"$(dirname \"$disk\")\" >$home/dir; exit 0",
    );
    let before = fs::read(scene.path("web1.img")).unwrap();
    let result = scene.run_image(&[]);
    assert!(result.status.success(), "{}", text(&result.stderr));
    assert!(result.stdout.is_empty());
    assert!(scene.is_clean(), "it is all gone before the command returns");
    assert_eq!(fs::read(scene.path("mbr")).unwrap()[510..], [0x55, 0xaa]);
    assert!(fs::read(scene.path("web1.img")).unwrap() == before, "the image changed");
}

#[test]
fn a_qemu_that_fails_is_one_sentence() {
    for (script, part) in [
        ("echo 'qemu-system-x86_64: -foo: invalid option' >&2; exit 1", "-foo: invalid option"),
        ("exit 3", "exit status: 3"),
        ("kill -SEGV $$", "SIGSEGV"),
    ] {
        let scene = Scene::new(script);
        let result = scene.run_image(&[]);
        let stderr = text(&result.stderr);
        assert_eq!(result.status.code(), Some(1), "{script}: {stderr}");
        let own: Vec<_> = stderr.lines().filter(|l| l.starts_with("synthdisk: ")).collect();
        assert_eq!(own.len(), 1, "{script}: {stderr}");
        assert!(own[0].contains("QEMU") && own[0].contains(part), "{script}: {stderr}");
        assert_eq!(stderr.matches(part).count(), 1, "{script}: {stderr}");
        assert!(scene.is_clean());
    }
}

#[test]
fn a_mount_that_fails_leaves_nothing() {
    let scene = Scene::new("exit 0");
    fs::write(scene.path("web1.img"), b"").unwrap();
    let result = scene.run_image(&[]);
    let stderr = text(&result.stderr);
    assert_eq!(result.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("web1.img"), "{stderr}");
    assert!(scene.is_clean());
    assert!(!scene.path("args").exists(), "QEMU was started");
}

#[test]
fn signals_leave_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let scene = Scene::new(STAY);
        let (mut child, qemu) = scene.start();
        assert!(!scene.is_clean());
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1));
        assert!(scene.is_clean(), "{signal}: all is gone before the command returns");
        assert!(!lives(qemu));
    }
}

#[test]
fn a_run_that_is_killed_leaves_nothing() {
    let scene = Scene::new(STAY);
    let (mut child, qemu) = scene.start();
    child.kill().unwrap();
    child.wait().unwrap();
    scene.assert_clean();
    eventually("QEMU ends", || !lives(qemu));
}

#[test]
fn a_run_that_is_killed_early_leaves_nothing() {
    // At various moments of its start.
    for millis in [1, 5, 10, 20, 40, 80] {
        let scene = Scene::new(STAY);
        let image = scene.path("web1.img");
        let mut child = scene.command(&[&image.to_string_lossy()]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
        scene.assert_clean();
    }
}

#[test]
fn a_killed_keeper_or_mount_ends_the_run() {
    for victim in ["internal keep", "mount --foreground"] {
        let scene = Scene::new(STAY);
        let (child, qemu) = scene.start();
        let pid = scene.process(victim);
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        let result = child.wait_with_output().unwrap();
        let stderr = text(&result.stderr);
        assert_eq!(result.status.code(), Some(1), "{victim}: {stderr}");
        assert!(stderr.contains("the mount ended below the guest"), "{victim}: {stderr}");
        scene.assert_clean();
        assert!(!lives(qemu), "{victim}");
    }
}

#[test]
fn a_qemu_that_ignores_sigterm_is_killed() {
    let scene = Scene::new("trap '' TERM; exec 3<>\"$disk\"; echo $$ >$home/pid; exec sleep 300");
    let (mut child, qemu) = scene.start();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    child.wait().unwrap();
    assert!(scene.is_clean());
    assert!(!lives(qemu));
}

/// QEMU makes the terminal raw and, when it is killed with `run`, can't undo it.
#[test]
fn the_terminal_is_given_back() {
    for ending in ["kill -KILL $run", "kill -KILL $(cat $home/pid)"] {
        let scene =
            Scene::new("stty raw -echo; exec 3<>\"$disk\"; echo $$ >$home/pid; exec sleep 300");
        let session = format!(
            "home={}; cd $home; stty -g >before; {SYNTHDISK} run --accel tcg --bootloader none \
             web1.img <&0 & run=$!; until [ -s pid ]; do sleep 0.05; done; stty -g >during; {ending}; \
             wait $run; until [ -z \"$(ls run)\" ]; do sleep 0.05; done; sleep 0.1; stty -g >after",
            scene.home.path().display()
        );
        fs::write(scene.path("session"), session).unwrap();
        let line = format!("bash {}", scene.path("session").display());
        let path = std::env::var("PATH").unwrap_or_default();
        let status = command("script")
            .args(["-q", "-e", "-c", &line, "/dev/null"])
            .env("PATH", format!("{}:{path}", scene.path("bin").display()))
            .env("XDG_RUNTIME_DIR", scene.path("run"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .status()
            .expect("script (package bsdutils) runs");
        assert!(status.success(), "{ending}");
        let [before, during, after] =
            ["before", "during", "after"].map(|name| fs::read_to_string(scene.path(name)).unwrap());
        assert_ne!(before, during, "{ending}: the terminal was raw");
        assert_eq!(before, after, "{ending}");
        scene.assert_clean();
    }
}

#[test]
fn an_overlay_is_kept() {
    let scene = Scene::new(
        "head -c 4 <(tail -c 4 \"$disk\") >$home/seen; size=$(stat -c %s \"$disk\"); \
         printf kept | dd of=\"$disk\" bs=1 seek=$((size - 4)) conv=notrunc status=none",
    );
    let overlay = scene.path("over.qcow2");
    let overlay = overlay.to_string_lossy();
    for expected in [&[0; 4][..], b"kept"] {
        let result = scene.run_image(&["--overlay", &overlay]);
        assert!(result.status.success(), "{}", text(&result.stderr));
        assert_eq!(fs::read(scene.path("seen")).unwrap(), expected);
    }
}

// ---- test boots ------------------------------------------------------------------------------

/// A console that shows a boot as a terminal would get it, and stays at the prompt.
const LOGIN: &str = "printf '\\033[2J\\033[0;32mLinux version 6.1\\033[0m\\r\\n'; \
                     printf '\\r\\nweb1 login: '; exec 3<>\"$disk\"; exec sleep 300";

#[test]
fn a_prompt_passes() {
    let scene = Scene::new(LOGIN);
    let log = scene.path("console.log");
    let args = ["--expect", "web1 login: $", "--timeout", "60s", "--log", &log.to_string_lossy()];
    let result = scene.run_image(&args);
    let stdout = text(&result.stdout);
    assert!(result.status.success(), "{}", text(&result.stderr));
    assert!(stdout.starts_with("web1: passed after "), "{stdout}");
    assert!(stdout.trim_end().ends_with(": web1 login:"), "{stdout}");
    assert!(scene.is_clean());
    // The log has every byte.
    assert!(fs::read(&log).unwrap().starts_with(b"\x1b[2J\x1b[0;32mLinux version"));
}

#[test]
fn what_does_not_pass_says_why() {
    for (script, timeout, part) in [
        (LOGIN, "1", "not within 1 s; last line, "),
        ("exec sleep 300", "1", "the serial console stayed empty"),
        ("echo 'Kernel panic - not syncing: no root'; sleep 300", "60", "kernel panic: no root"),
        ("echo 'synthdisk: disk read error'; sleep 300", "60", "the boot loader stopped: disk"),
        ("printf '(initramfs) '; sleep 300", "60", "the initramfs gave up"),
        ("echo bye", "60", "the guest ended; last line, 0 s before: bye"),
        ("echo 'qemu: no way' >&2; exit 1", "60", "QEMU failed: no way"),
    ] {
        let scene = Scene::new(script);
        let started = Instant::now();
        let result = scene.run_image(&["--expect", "no such text", "--timeout", timeout]);
        let stderr = text(&result.stderr);
        assert_eq!(result.status.code(), Some(1), "{script}: {stderr}");
        assert!(result.stdout.is_empty(), "{script}");
        assert!(stderr.contains(part), "{script}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{script}: {stderr}");
        assert!(started.elapsed() < Duration::from_secs(50), "{script}: not failed early");
        assert!(scene.is_clean(), "{script}");
    }
}

#[test]
fn several_guests_make_a_table() {
    // Each guest does what its name says.
    let scene = Scene::new(
        "case \"$*\" in *guest=panic*) echo 'Kernel panic - not syncing: <&>';; \
         *) echo 'Linux version 6'; printf 'login: ';; esac; exec 3<>\"$disk\"; sleep 300",
    );
    let configs = ["good", "panic", "late"].map(|name| scene.config(name));
    let missing = scene.path("missing.cfg");
    let (json, junit, logs) = (scene.path("r.json"), scene.path("r.xml"), scene.path("logs"));
    let mut args = vec!["--expect", "login:", "--jobs", "2"];
    let paths: Vec<String> =
        configs.iter().chain([&missing]).map(|c| c.to_string_lossy().into_owned()).collect();
    paths.iter().for_each(|c| args.extend(["--config", c]));
    let files = [&json, &junit, &logs].map(|p| p.to_string_lossy().into_owned());
    args.extend(["--json", &files[0], "--junit", &files[1], "--log", &files[2]]);
    let result = scene.run(&args);
    let (stdout, stderr) = (text(&result.stdout), text(&result.stderr));
    assert_eq!(result.status.code(), Some(1), "{stdout}{stderr}");
    let rows: Vec<Vec<&str>> = stdout.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 5, "{stdout}");
    assert_eq!(rows[1][..2], ["good", "passed"], "{stdout}");
    assert_eq!(rows[2], ["panic", "failed", "-", "-", "kernel", "panic:", "<&>"], "{stdout}");
    assert_eq!(rows[3][..2], ["late", "passed"], "{stdout}");
    assert_eq!(rows[4][..2], ["missing", "error"], "{stdout}");
    assert!(stderr.contains("synthdisk: 2 of 4 guests did not pass"), "{stderr}");
    assert!(scene.is_clean());

    let parsed: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(parsed["passed"], 2);
    assert_eq!(parsed["guests"][1]["reason"], "kernel panic: <&>");
    assert_eq!(parsed["guests"][0]["log"], logs.join("good.log").to_string_lossy().as_ref());
    assert!(fs::read_to_string(logs.join("panic.log")).unwrap().contains("Kernel panic"));
    let count = "count(//testcase[failure or error])";
    assert_eq!(run_text("xmllint", &["--xpath", count, &files[1]]), "2");
}

#[test]
fn guests_of_one_name_are_told_apart() {
    let scene = Scene::new(LOGIN);
    let config = scene.config("web1");
    let config = config.to_string_lossy();
    let args = ["--expect", "login:", "--config", &config, "--config", &config, "--json", "-"];
    let result = scene.run(&args);
    assert!(result.status.success(), "{}", text(&result.stderr));
    let parsed: serde_json::Value = serde_json::from_slice(&result.stdout).unwrap();
    assert_eq!(parsed["guests"][0]["guest"], "web1");
    assert_eq!(parsed["guests"][1]["guest"], "web1-2");
}

#[test]
fn a_signal_ends_a_batch() {
    let scene = Scene::new("exec 3<>\"$disk\"; echo $$ >$home/pid; exec sleep 300");
    let configs = ["a", "b", "c"].map(|name| scene.config(name).to_string_lossy().into_owned());
    let mut args = vec!["--expect", "x"];
    configs.iter().for_each(|c| args.extend(["--config", c]));
    let child = scene.command(&args).spawn().unwrap();
    eventually("a guest runs", || scene.path("pid").exists());
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let result = child.wait_with_output().unwrap();
    assert_eq!(result.status.code(), Some(1));
    let (stdout, stderr) = (text(&result.stdout), text(&result.stderr));
    assert!(stdout.contains("not started"), "{stdout}");
    assert!(stderr.ends_with("synthdisk: ended by SIGTERM\n"), "{stderr}");
    assert!(scene.is_clean());
}

// ---- libvirt ---------------------------------------------------------------------------------

#[test]
fn libvirt_accepts_the_definition() {
    let home = TempDir::new().unwrap();
    let config = home.path().join("it's.cfg");
    fs::write(
        &config,
        "name = 'a<b> & \"c\"'\nmemory = 512\nmaxmem = 1024\nvcpus = 2\nmaxvcpus = 4\nvnc = 1\n\
         on_reboot = 'destroy'\non_crash = 'restart'\n\
         vif = ['mac=00:16:3e:01:02:03,bridge=xenbr0', '']\n\
         disk = ['phy:/dev/vg/root,xvda2,w', 'phy:/dev/vg/swap,xvda1,w', 'file:/data,xvdb,r', \
         'file:/c.iso,hdc:cdrom,r']\n",
    )
    .unwrap();
    for options in [&[][..], &["--mountpoint", "/srv/a & b"]] {
        let config = config.to_string_lossy();
        let args = [&["libvirt-xml", "--config", &config], options].concat();
        let xml = run_text(SYNTHDISK, &args);
        let file = home.path().join("domain.xml");
        fs::write(&file, &xml).unwrap();
        let file = file.to_string_lossy();
        run("virt-xml-validate", &[&file, "domain"]);
        let name = run_text("xmllint", &["--xpath", "string(/domain/name)", &file]);
        assert_eq!(name, "a<b> & \"c\"");
        let source = |n: u32| {
            let path = format!("string(//disk[{n}]/source/@file)");
            run_text("xmllint", &["--xpath", &path, &file])
        };
        let dir = options.get(1).map_or("/run/synthdisk/a<b> & \"c\"", |dir| dir);
        assert_eq!(source(1), format!("{dir}/disk.raw"));
        assert_eq!(source(2), format!("{dir}/disk-b.raw"));
        assert_eq!(source(3), format!("{dir}/cdrom-c.raw"));
    }
    expect_failure(&["libvirt-xml", "--config", "/nonexistent.cfg"], 1);
}
