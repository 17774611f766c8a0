//! Every way in which a mount ends: cleanly, with its overlay safe and no process left.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use crate::common::file::{bytes_of, write_at, writer};
use crate::common::mount::{Mount, is_mount_point};
use crate::common::overlay::{Case, daemon, wait_until};
use crate::common::process::{SYNTHDISK, command, is_root, output, run, skip, text};
use crate::common::tiny::noise;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MIB: u64 = 1 << 20;

/// A name, and the way to end the mount.
type Way<'a> = (&'a str, &'a dyn Fn(&Mount));

#[test]
fn every_way_to_end_a_mount() {
    let case = Case::new();
    let ways: [Way; 6] = [
        ("SIGTERM", &|m| kill(daemon(m), Signal::SIGTERM).unwrap()),
        ("SIGINT", &|m| kill(daemon(m), Signal::SIGINT).unwrap()),
        ("umount", &|m| {
            let program = if is_root() { "umount" } else { "fusermount3" };
            let args = if is_root() { &[][..] } else { &["-u"] };
            assert!(command(program).args(args).arg(m.dir()).status().unwrap().success());
        }),
        ("fusermount3", &|m| drop(run("fusermount3", &["-u".as_ref(), m.dir().as_os_str()]))),
        ("synthdisk umount", &|m| drop(run(SYNTHDISK, &["umount".as_ref(), m.dir().as_os_str()]))),
        ("synthdisk umount --lazy", &|m| {
            drop(run(SYNTHDISK, &["umount".as_ref(), "--lazy".as_ref(), m.dir().as_os_str()]));
        }),
    ];
    for (i, (what, end)) in ways.iter().enumerate() {
        let mount = case.mount_with(&["--swap", "8M"]);
        if i > 0 {
            let before = noise(5000, i as u64 - 1);
            assert!(bytes_of(mount.part(2), MIB, 5000) == before, "lost before {what}");
        }
        // No fsync: a clean end is as good.
        write_at(&writer(mount.part(2)), &noise(5000, i as u64), MIB);
        end(&mount);
        wait_until(what, || !is_mount_point(mount.dir()) && mount.daemon_pids().is_empty());
        assert!(mount.dir().read_dir().unwrap().next().is_none());
        mount.already_gone();
        case.check();
    }
    // The temporary overlay has no name.
    let mount = Mount::new(&[], &case.tiny.image);
    write_at(&writer(mount.part(1)), b"gone", 0);
    mount.unmount();
    run("e2fsck", &["-fn".as_ref(), case.tiny.image.as_os_str()]);
    case.untouched.check();
}

#[test]
fn a_signal_ends_a_mount_whose_files_are_open() {
    let case = Case::new();
    let mount = case.mount_with(&["--swap", "8M"]);
    let file = writer(mount.part(2));
    write_at(&file, &noise(5000, 1), MIB);
    let busy = output(SYNTHDISK, &["umount".as_ref(), mount.dir().as_os_str()]);
    let said = text(&busy.stderr);
    assert!(busy.status.code() == Some(1) && said.contains("in use"), "{said}");
    kill(daemon(&mount), Signal::SIGTERM).unwrap();
    wait_until("SIGTERM with open files", || mount.daemon_pids().is_empty());
    assert!(file.write_at(b"x", 0).is_err());
    drop(file);
    mount.already_gone();
    case.check();
    let mount = case.mount();
    assert_eq!(bytes_of(mount.part(2), MIB, 5000), noise(5000, 1));
    mount.unmount();
    case.untouched.check();
}

#[test]
fn another_filesystem_at_the_same_place_survives() {
    if !is_root() {
        skip("mounting needs root");
        return;
    }
    let case = Case::new();
    let mount = case.mount();
    let dir = mount.dir().to_path_buf();
    let file = writer(mount.part(2));
    // Unmounted lazily, so that the daemon lives on until the file is closed; by then another
    // filesystem is mounted there.
    run("umount", &["-l".as_ref(), dir.as_os_str()]);
    run("mount", &["-t", "tmpfs", "tmpfs", &dir.to_string_lossy()]);
    fs::write(dir.join("precious"), b"data").unwrap();
    write_at(&file, b"last words", MIB);
    drop(file);
    wait_until("the daemon ends", || mount.daemon_pids().is_empty());
    let precious = fs::read(dir.join("precious"));
    let _ = command("umount").arg(&dir).status();
    assert_eq!(precious.expect("the other filesystem is still there"), b"data");
    mount.already_gone();
    let mount = case.mount();
    assert_eq!(bytes_of(mount.part(2), MIB, 10), b"last words");
    mount.unmount();
    case.untouched.check();
}

#[test]
fn foreground_ends_with_its_terminal() {
    let case = Case::new();
    let dir = case.tiny.file("mnt");
    fs::create_dir(&dir).unwrap();
    let mut child = command(SYNTHDISK)
        .args(["mount", "--foreground"])
        .args([&case.tiny.image, &dir])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("mounted in the foreground", || is_mount_point(&dir));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGHUP).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!is_mount_point(&dir));
    case.untouched.check();
}
