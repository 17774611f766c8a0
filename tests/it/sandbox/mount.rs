//! The processes of a mount: what the server may do, and what is left when one of them is killed.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::file::{bytes_of, write_at, writer};
use crate::common::mount::{Mount, children, has_ended, is_mount_point, is_started_as};
use crate::common::overlay::{Case, daemon, wait_until};
use crate::common::process::{expect_failure, is_root};
use crate::common::tiny::{Tiny, noise};

const MIB: u64 = 1 << 20;

/// The values of a field of `/proc/PID/status`, for each thread.
fn of_threads(pid: i32, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let texts = tasks.map(|task| fs::read_to_string(task.path().join("status")).unwrap());
    let value = |text: String| {
        let mut lines = text.lines();
        let found = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        found.unwrap_or_else(|| panic!("no {field}")).trim().to_owned()
    };
    texts.map(value).collect()
}

fn status(mount: &Mount) -> Value {
    serde_json::from_slice(&fs::read(mount.dir().join(".synthdisk.json")).unwrap()).unwrap()
}

fn active(status: &Value) -> Vec<&str> {
    let layers = status["sandbox"]["active"].as_array().unwrap();
    layers.iter().map(|layer| layer.as_str().unwrap()).collect()
}

#[test]
fn the_server_has_no_rights() {
    let tiny = Tiny::new();
    let mount = Mount::new(&[], &tiny.image);
    let server = mount.server_pid();
    assert!(of_threads(server, "Name").len() > 4, "its threads");
    for field in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(of_threads(server, field).iter().all(|set| set.trim_matches('0').is_empty()));
    }
    assert!(of_threads(server, "NoNewPrivs").iter().all(|value| value == "1"));
    assert!(of_threads(server, "Seccomp").iter().all(|value| value == "2"), "filtered");
    let limits = fs::read_to_string(format!("/proc/{server}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");

    let status = status(&mount);
    assert_eq!(status["sandbox"]["mode"], "auto");
    assert_eq!(status["pid"], mount.daemon_pids()[0], "the keeper lives longest");
    for layer in ["account", "no-new-privileges", "not-dumpable", "system-calls"] {
        assert!(active(&status).contains(&layer), "{status}");
    }
    if is_root() {
        for field in ["Uid", "Gid"] {
            let ids = of_threads(server, field);
            assert!(ids.iter().all(|ids| ids.split_whitespace().all(|id| id != "0")), "{ids:?}");
        }
        assert!(of_threads(server, "Groups").iter().all(String::is_empty));
        // Threads of the planner are older than the confinement; without capabilities and with
        // no_new_privs, this set gives them nothing.
        let shown = fs::read_to_string(format!("/proc/{server}/status")).unwrap();
        assert!(shown.contains("CapBnd:\t0000000000000000\n"), "{shown}");
        assert_eq!(fs::read_dir(format!("/proc/{server}/root")).unwrap().count(), 0);
        assert!(active(&status).contains(&"empty-root"), "{status}");
        // Other processes of that user cannot look into it: its files in /proc are root's.
        let environ = fs::metadata(format!("/proc/{server}/environ")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&environ), 0);
    }
    mount.unmount();
}

/// What `/proc/PID/fd` shows.
fn open_files(pid: i32) -> Vec<PathBuf> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    links.filter_map(|link| fs::read_link(link.path()).ok()).collect()
}

#[test]
fn the_server_holds_its_disks_and_nothing_else() {
    if !is_root() {
        return; // the kernel does not show them
    }
    let case = Case::new();
    let log = case.tiny.file("log").to_string_lossy().into_owned();
    let mount = case.mount_with(&["--swap", "8M", "--log", &log]);
    let unexpected: Vec<_> = open_files(mount.server_pid())
        .into_iter()
        .filter(|file| {
            let shown = file.to_string_lossy();
            let known =
                [&case.tiny.image, &case.overlay, Path::new(&log)].contains(&file.as_path());
            let unnamed = shown.starts_with("/var/tmp/") && shown.ends_with("(deleted)");
            let kind =
                ["/dev/fuse", "/dev/null"].contains(&&*shown) || shown.starts_with("socket:");
            !(known || unnamed || kind)
        })
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    // The keeper holds nothing of the guest.
    let kept = open_files(daemon(&mount).as_raw());
    assert!(!kept.contains(&case.tiny.image) && !kept.contains(&case.overlay), "{kept:?}");
    mount.unmount();
}

/// The processes of a mount.
fn processes(mount: &Mount) -> Vec<i32> {
    let keeper = daemon(mount).as_raw();
    let mut all = children(keeper);
    all.push(keeper);
    all
}

#[test]
fn nothing_is_left_when_a_process_is_killed() {
    let case = Case::new();
    let written = noise(5000, 7);
    for (i, victim) in ["server", "keeper"].into_iter().enumerate() {
        let mount = case.mount_with(&["--swap", "8M"]);
        if i > 0 {
            assert!(bytes_of(mount.part(2), MIB, 5000) == written, "lost when one was killed");
        }
        let file = writer(mount.part(2));
        write_at(&file, &written, MIB);
        file.sync_all().unwrap();
        let all = processes(&mount);
        assert!(all.iter().any(|pid| is_started_as(*pid, "sweep")));
        let pid = if victim == "server" { mount.server_pid() } else { daemon(&mount).as_raw() };
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        wait_until(victim, || {
            !is_mount_point(mount.dir()) && all.iter().all(|pid| has_ended(*pid))
        });
        drop(file);
        mount.already_gone();
        case.check();
    }
    case.untouched.check();
}

/// A keeper that was killed with a file of the mount open: writes that were acknowledged are kept.
#[test]
fn a_killed_keeper_loses_no_write() {
    let case = Case::new();
    let mount = case.mount_with(&["--swap", "8M"]);
    let file = writer(mount.part(2));
    // Not synced.
    write_at(&file, &noise(5000, 3), MIB);
    let all = processes(&mount);
    kill(daemon(&mount), Signal::SIGKILL).unwrap();
    wait_until("the server ends", || all.iter().all(|pid| has_ended(*pid)));
    drop(file);
    wait_until("the mount ends", || !is_mount_point(mount.dir()));
    mount.already_gone();
    let mount = case.mount();
    assert!(bytes_of(mount.part(2), MIB, 5000) == noise(5000, 3));
    mount.unmount();
}

/// When nobody is left to remove it, the mount is dead, and the messages say what to do.
#[test]
fn a_mount_whose_processes_were_all_killed() {
    let case = Case::new();
    let mount = case.mount();
    let all = processes(&mount);
    let stop = |pid: &i32| kill(Pid::from_raw(*pid), Signal::SIGSTOP).unwrap();
    all.iter().for_each(stop);
    all.iter().for_each(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap());
    wait_until("they end", || all.iter().all(|pid| has_ended(*pid)));
    let dead = fs::metadata(mount.dir()).unwrap_err();
    assert_eq!(dead.raw_os_error(), Some(nix::libc::ENOTCONN));
    let args = ["mount".as_ref(), case.tiny.image.as_os_str(), mount.dir().as_os_str()];
    let said = expect_failure(&args, 1);
    assert!(said.contains("synthdisk umount"), "{said}");
    mount.unmount();
    case.check();
}

#[test]
fn strict_serves_completely_confined_or_not_at_all() {
    let tiny = Tiny::new();
    let auto = Mount::new(&[], &tiny.image);
    let missing = status(&auto)["sandbox"]["missing"].as_array().unwrap().clone();
    auto.unmount();
    if missing.is_empty() {
        let mount = Mount::new(&["--sandbox", "strict"], &tiny.image);
        assert_eq!(status(&mount)["sandbox"]["mode"], "strict");
        mount.unmount();
        return;
    }
    let dir = tiny.file("mnt");
    fs::create_dir(&dir).unwrap();
    let args = ["mount".as_ref(), "--sandbox".as_ref(), "strict".as_ref()];
    let said = expect_failure(&[&args[..], &[tiny.image.as_os_str(), dir.as_os_str()]].concat(), 1);
    let layer = missing[0]["layer"].as_str().unwrap();
    assert!(said.contains("--sandbox strict") && said.contains(layer), "{said}");
    assert!(!is_mount_point(&dir));
}

#[test]
fn without_a_sandbox_nothing_is_applied() {
    let tiny = Tiny::new();
    let mount = Mount::new(&["-o", "sandbox=none"], &tiny.image);
    assert_eq!(status(&mount)["sandbox"]["mode"], "none");
    assert!(active(&status(&mount)).is_empty());
    assert!(of_threads(mount.server_pid(), "Seccomp").iter().all(|value| value == "0"));
    mount.unmount();
}

/// What is in force is printed with --verbose.
#[test]
fn the_report_names_the_layers() {
    let tiny = Tiny::new();
    let mount = Mount::new(&["--verbose"], &tiny.image);
    let printed = mount.printed();
    let line = printed.lines().find(|line| line.starts_with("sandbox:")).unwrap_or(&printed);
    assert!(line.contains("system-calls"), "{line}");
    mount.unmount();
}
