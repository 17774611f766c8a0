//! `synthdisk run` with a QEMU that is a shell script: arguments, and what is left over however
//! the command ends. Verdicts are in `verdicts.rs`, real guests in `boot/run.rs`.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use super::scene::{STAY, Scene};
use crate::common::mount::has_ended;
use crate::common::overlay::wait_until;
use crate::common::process::{
    SYNTHDISK, command, expect_failure, is_root, skip, text, write_script,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
        (&["run", "a.img", "--expect", "x", "--timeout", "soon"], "invalid duration"),
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
    let image = scene.path("web1.img");
    let image = image.to_string_lossy();
    let sentence = expect_failure(&["run", "--qemu", "/nonexistent/qemu", &image], 1);
    assert!(sentence.contains("/nonexistent/qemu"), "{sentence}");
    scene.assert_clean();
}

/// Somebody else's PATH and environment must not decide what root starts.
#[test]
fn root_takes_no_tools_from_path() {
    if !is_root() {
        skip("root is the one who takes no tools from PATH");
        return;
    }
    let scene = Scene::new("echo \"LD_PRELOAD=$LD_PRELOAD PATH=$PATH\" >$home/environment");
    let fake = "#!/bin/sh\ntouch \"${0%/*}/../started-${0##*/}\"\nexit 1\n";
    fs::create_dir(scene.path("evil")).unwrap();
    for name in ["qemu-system-x86_64", "qemu-img"] {
        write_script(&scene.path("evil").join(name), fake);
    }
    let evil = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", scene.path("evil").display());
    let image = scene.path("web1.img");
    let run = |args: &[&str]| {
        let mut command = command(SYNTHDISK);
        command.env("PATH", &evil).args(args).arg(&image).output().unwrap()
    };
    let out = scene.path("out.qcow2");
    let out = out.to_string_lossy();
    let done = run(&["finalize", "-q", "--bootloader", "none", "--format", "qcow2", "-o", &out]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let line = run(&["run", "--dry-run", "--accel", "tcg", "--bootloader", "none"]);
    assert!(!text(&line.stdout).contains("evil"), "{}", text(&line.stdout));
    for name in ["qemu-system-x86_64", "qemu-img"] {
        assert!(!scene.path(&format!("started-{name}")).exists(), "{name} of PATH was started");
    }
    // A QEMU that is named is started, without what the environment says to loaders and shells.
    let mut command = scene.command(&[&image.to_string_lossy()]);
    let result = command.env("PATH", &evil).env("LD_PRELOAD", "").output().unwrap();
    assert!(result.status.success(), "{}", text(&result.stderr));
    let environment = fs::read_to_string(scene.path("environment")).unwrap();
    assert!(!environment.contains("evil"), "{environment}");
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
        assert!(has_ended(qemu));
    }
}

#[test]
fn a_run_that_is_killed_leaves_nothing() {
    let scene = Scene::new(STAY);
    let (mut child, qemu) = scene.start();
    child.kill().unwrap();
    child.wait().unwrap();
    scene.assert_clean();
    wait_until("QEMU ends", || has_ended(qemu));
}

#[test]
fn a_run_that_is_killed_early_leaves_nothing() {
    // At various moments while it starts.
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
    for victim in ["internal keep", "internal mount"] {
        let scene = Scene::new(STAY);
        let (child, qemu) = scene.start();
        let pid = scene.process(victim);
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        let result = child.wait_with_output().unwrap();
        let stderr = text(&result.stderr);
        assert_eq!(result.status.code(), Some(1), "{victim}: {stderr}");
        assert!(stderr.contains("the disks ended below the guest"), "{victim}: {stderr}");
        scene.assert_clean();
        assert!(has_ended(qemu), "{victim}");
    }
}

#[test]
fn a_qemu_that_ignores_sigterm_is_killed() {
    let scene = Scene::new("trap '' TERM; exec 3<>\"$disk\"; echo $$ >$home/pid; exec sleep 300");
    let (mut child, qemu) = scene.start();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    child.wait().unwrap();
    assert!(scene.is_clean());
    assert!(has_ended(qemu));
}

/// QEMU makes the terminal raw and, when it is killed with `run`, can't undo it.
#[test]
fn the_terminal_is_given_back() {
    for ending in ["kill -KILL $run", "kill -KILL $(cat $home/pid)"] {
        let scene =
            Scene::new("stty raw -echo; exec 3<>\"$disk\"; echo $$ >$home/pid; exec sleep 300");
        let session = format!(
            "home={}; cd $home; stty -g >before; {SYNTHDISK} run --accel tcg --aio threads --bootloader none \
             --qemu bin/qemu-system-x86_64 web1.img <&0 & run=$!; until [ -s pid ]; do sleep 0.05; done; stty -g >during; {ending}; \
             wait $run; until [ -z \"$(ls run)\" ]; do sleep 0.05; done; sleep 0.1; stty -g >after",
            scene.home.path().display()
        );
        fs::write(scene.path("session"), session).unwrap();
        let line = format!("bash {}", scene.path("session").display());
        let status = command("script")
            .args(["-q", "-e", "-c", &line, "/dev/null"])
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

/// Other users see the arguments of processes; what was typed is gone with the command, or its user's
/// own choice (a file hides it).
#[test]
fn no_password_hash_is_in_the_arguments_of_what_run_starts() {
    const HASH: &str = "$5$salt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/";
    let scene = Scene::new(STAY);
    let guest = crate::common::tiny::Tiny::with(|tree| {
        fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        fs::write(tree.join("etc/shadow"), "root:*:19000:0:99999:7:::\n").unwrap();
    });
    let option = format!("--root-password-hash={HASH}");
    let child = scene.command(&[&option, &guest.image.to_string_lossy()]).spawn().unwrap();
    let pid = scene.path("pid");
    wait_until("QEMU starts", || fs::read_to_string(&pid).is_ok_and(|s| s.ends_with('\n')));
    let processes = scene.processes();
    for begin in ["internal keep", "internal mount"] {
        scene.process(begin);
    }
    assert!(processes.iter().all(|(_, line)| !line.contains("$5$")), "{processes:?}");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    child.wait_with_output().unwrap();
    scene.assert_clean();
}
