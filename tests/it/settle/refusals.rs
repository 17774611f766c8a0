//! What cannot settle, and what is left then: nothing.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixListener;

use super::machine::Machine;
use super::{MIB, arg, assert_same, settle};
use crate::common::mount::Mount;
use crate::common::overlay::Case;
use crate::common::process::{SYNTHDISK, command, expect_failure, is_root, run, skip, text};

#[test]
fn what_cannot_settle_is_refused() {
    let case = Case::new();
    let mount = case.mount();
    let mut machine = Machine::start(&mount);
    let out = case.tiny.file("out.raw");
    let args = settle(&machine.socket, &mount, &out);

    let vmdk = expect_failure(&[&args[..], &["--format", "vmdk"]].concat(), 2);
    assert!(vmdk.contains("raw and qcow2"), "{vmdk}");
    fs::write(&out, "theirs").unwrap();
    let taken = expect_failure(&args, 1);
    assert!(taken.contains("exists; use --force"), "{taken}");
    assert_eq!(fs::read(&out).unwrap(), b"theirs");
    fs::remove_file(&out).unwrap();
    let source = case.tiny.image.clone();
    let itself = expect_failure(&settle(&machine.socket, &mount, &source), 1);
    assert!(itself.contains("is the same as"), "{itself}");

    let dir = case.tiny.path();
    let nothing = dir.join("nothing");
    let no_socket = ["settle", arg(mount.dir()), "--qmp", arg(&nothing), "-o", arg(&out)];
    assert!(expect_failure(&no_socket, 1).contains("cannot connect to the QMP socket"));
    let no_mount = ["settle", arg(dir), "--qmp", arg(&machine.socket), "-o", arg(&out)];
    assert!(expect_failure(&no_mount, 1).contains("is not a synthdisk mount"));
    let no_disk = expect_failure(&[&args[..], &["--disk", "xvdq"]].concat(), 1);
    assert!(no_disk.contains("there is no disk xvdq"), "{no_disk}");

    // A program that accepts connections and hangs up is not QEMU.
    let fake = dir.join("fake");
    let listener = UnixListener::bind(&fake).unwrap();
    let server = std::thread::spawn(move || drop(listener.accept()));
    let not_qemu = ["settle", arg(mount.dir()), "--qmp", arg(&fake), "-o", arg(&out)];
    assert!(expect_failure(&not_qemu, 1).contains("the connection to QEMU has ended"));
    server.join().unwrap();

    // The disk of another mount.
    let other = Mount::new(&[], &case.tiny.image);
    let foreign = expect_failure(&settle(&machine.socket, &other, &out), 1);
    assert!(foreign.contains("does not use disk.raw of this mount"), "{foreign}");

    assert!(machine.nodes().is_empty() && machine.jobs().is_empty() && machine.is_running());
    assert!(!out.exists());
    let left: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains(".part")), "{left:?}");
}

/// The filesystem of the new file fills up while the disk is copied; the guest goes on.
#[test]
fn a_full_filesystem_leaves_the_guest_on_the_mount() {
    if !is_root() {
        return skip("mounting a tmpfs takes root");
    }
    let case = Case::new();
    let mount = case.mount();
    let mut machine = Machine::start(&mount);
    let dir = case.tiny.file("small");
    fs::create_dir(&dir).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=1M", "none", arg(&dir)]);
    let out = dir.join("out.raw");
    let mut args = settle(&machine.socket, &mount, &out);
    let early = command(SYNTHDISK).args(&args).output().unwrap();
    args.push("--force");
    let late = command(SYNTHDISK).args(&args).output().unwrap();
    let left: Vec<_> = fs::read_dir(&dir).unwrap().collect();
    run("umount", &["-l", arg(&dir)]);
    let (early, late) =
        ((early.status.code(), text(&early.stderr)), (late.status.code(), text(&late.stderr)));
    assert!(early.0 == Some(1) && early.1.contains("free"), "{early:?}");
    assert!(late.0 == Some(1) && late.1.contains("No space left"), "{late:?}");
    assert!(left.is_empty(), "{left:?}");
    assert!(machine.nodes().is_empty() && machine.jobs().is_empty() && machine.is_running());
    machine.write(9 * MIB, 0x44, 512);
    let mut byte = [0];
    let mut disk = fs::File::open(mount.disk()).unwrap();
    std::io::Seek::seek(&mut disk, std::io::SeekFrom::Start(9 * MIB)).unwrap();
    disk.read_exact(&mut byte).unwrap();
    assert_eq!(byte, [0x44]);
    // With room, it settles.
    let out = case.tiny.file("out.raw");
    run(SYNTHDISK, &settle(&machine.socket, &mount, &out));
    machine.lock_free(|| assert_same(&mount, &out, "raw"));
}

/// A drive without a name for its node, as in the `try it` line; and SIGINT gives up.
#[test]
fn a_drive_settles_or_stays_when_interrupted() {
    let case = Case::new();
    let mount = case.mount();
    let mut machine = Machine::start_with_drive(&mount);
    machine.write(9 * MIB, 0x55, 4096);
    let out = case.tiny.file("out.raw");
    let args = settle(&machine.socket, &mount, &out);
    let mut child = machine.spawn(&[&args[..], &["--rate", "64K"]].concat());
    machine.await_job();
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(machine.nodes().is_empty() && machine.jobs().is_empty() && machine.is_running());
    assert!(!out.exists());
    assert!(!machine.open_files(mount.dir()).is_empty());
    run(SYNTHDISK, &settle(&machine.socket, &mount, &out));
    assert_eq!(machine.open_files(mount.dir()), [""; 0]);
    machine.lock_free(|| assert_same(&mount, &out, "raw"));
}
