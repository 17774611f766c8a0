//! Programs of the host that work on a guest's bytes.

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use synthdisk::sandbox::{Limits, RunAs, ToolDir, ToolSandbox, unprivileged};

use crate::common::process::is_root;

/// Runs a shell script as a tool that may use `files`; returns what it prints.
fn run(script: &str, run_as: RunAs, files: &[&Path]) -> String {
    let limits = Limits { memory: Some(1 << 30), cpu: Some(100), file_len: Some(1 << 20) };
    let sandbox = ToolSandbox { run_as, limits, programs: &[], files };
    let result = sandbox.run(|thread| {
        let mut command = Command::new("/bin/sh");
        // Limits are set once the program runs.
        command.args(["-c", &format!("read go; {script}")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = thread.spawn(&mut command).unwrap();
        drop(child.stdin.take());
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        child.wait().unwrap();
        Ok(text)
    });
    result.unwrap()
}

fn has_landlock() -> bool {
    let script = "cat /etc/hostname >/dev/null 2>&1 && echo open";
    run(script, RunAs::Caller, &[]).is_empty()
}

#[test]
fn a_tool_has_no_rights() {
    let status = run("cat /proc/self/status", RunAs::Unprivileged, &[]);
    let value = |field: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
        found.unwrap_or_else(|| panic!("no {field}: {status}")).to_owned()
    };
    assert_eq!((value("NoNewPrivs"), value("Seccomp")), ("1".into(), "2".into()));
    assert!(value("CapEff").trim_matches('0').is_empty(), "{status}");
    if is_root() {
        let uid = unprivileged().uid.to_string();
        assert!(value("Uid").split('\t').all(|id| id == uid), "{status}");
        assert!(value("Groups").trim().is_empty(), "{status}");
        // Root's own tools read, and do nothing else that root may do.
        let status = run("cat /proc/self/status", RunAs::Caller, &[]);
        assert!(status.contains("CapEff:\t0000000000000004\n"), "{status}");
    }
    let limits = run("ulimit -c; ulimit -v; ulimit -t; ulimit -f", RunAs::Unprivileged, &[]);
    assert_eq!(limits, "0\n1048576\n100\n2048\n");
}

#[test]
fn a_tool_opens_what_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let file = |name: &str| {
        let path = dir.path().join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        path
    };
    let (given, other) = (file("given"), file("other"));
    let script = format!("cat {}; cat {}", given.display(), other.display());
    let expected = if has_landlock() { "given" } else { "givenother" };
    for run_as in [RunAs::Unprivileged, RunAs::Caller] {
        assert_eq!(run(&script, run_as, &[&given]), expected, "{run_as:?}");
    }
    // By descriptor, as files of a private mount are.
    let open = fs::File::open(&given).unwrap();
    let inherited = synthdisk::process::Inherited::new(&open).unwrap();
    let path = inherited.path();
    let script = format!("cat {}", path.display());
    assert_eq!(run(&script, RunAs::Unprivileged, &[&path]), "given");
}

#[test]
fn a_tool_starts_no_service_and_mounts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let script = format!("mount -t tmpfs x {at} && echo mounted; unshare -r true && echo unshared");
    for run_as in [RunAs::Unprivileged, RunAs::Caller] {
        assert_eq!(run(&script, run_as, &[dir.path()]), "");
    }
}

#[test]
fn files_are_exchanged_in_a_directory_without_a_name() {
    let dir = ToolDir::new().unwrap();
    let ours = dir.add("ours", b"from here").unwrap();
    let path = dir.path();
    let script = format!(
        "cat {0}; echo there >{1}/theirs; ln -s /x {1}/link",
        ours.display(),
        path.display()
    );
    assert_eq!(run(&script, dir.run_as(), &[&path]), "from here");
    assert_eq!(fs::read_to_string(path.join("theirs")).unwrap(), "there\n");
    // What a tool leaves there is never written through.
    assert!(dir.add("link", b"x").is_err() && dir.add("theirs", b"x").is_err());
    if is_root() {
        assert!(path.starts_with("/proc/self/fd"), "{}", path.display());
    }
}
