//! Test boots by `synthdisk run --expect`, with a QEMU that is a shell script.

use std::fs;
use std::time::{Duration, Instant};

use super::scene::Scene;
use crate::common::overlay::wait_until;
use crate::common::process::{run_text, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A console with the output of a boot, terminal control sequences included, up to the prompt.
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
        (
            "echo 'qemu: terminating on signal 15 from pid 1' >&2",
            "60",
            "QEMU was ended: terminating",
        ),
    ] {
        let scene = Scene::new(script);
        let started = Instant::now();
        let result = scene.run_image(&["--expect", "no such text", "--timeout", timeout]);
        let stderr = text(&result.stderr);
        let code = if part.starts_with("QEMU ") { 3 } else { 1 };
        assert_eq!(result.status.code(), Some(code), "{script}: {stderr}");
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
    wait_until("a guest runs", || scene.path("pid").exists());
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let result = child.wait_with_output().unwrap();
    assert_eq!(result.status.code(), Some(3));
    let (stdout, stderr) = (text(&result.stdout), text(&result.stderr));
    assert!(stdout.contains("ended by SIGTERM"), "{stdout}");
    assert!(stderr.ends_with("synthdisk: ended by SIGTERM\n"), "{stderr}");
    assert!(scene.is_clean());
}
