//! `settle` is killed at any moment: one of mount and file is whole, and a second call finds the way.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::machine::Machine;
use super::{MIB, arg, assert_same, settle};
use crate::common::overlay::Case;
use crate::common::process::{SYNTHDISK, output, run, text};

/// When the program is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// After this many milliseconds.
    After(u64),
    /// As soon as the machine is paused.
    Paused,
    /// As soon as the new file has its name.
    Named,
}

fn await_moment(moment: Moment, machine: &mut Machine, out: &Path) {
    let deadline = Instant::now() + Duration::from_secs(120);
    match moment {
        Moment::After(milliseconds) => std::thread::sleep(Duration::from_millis(milliseconds)),
        Moment::Paused => {
            while machine.is_running() && Instant::now() < deadline && !out.exists() {}
        }
        Moment::Named => while !out.exists() && Instant::now() < deadline {},
    }
}

/// Kill at `moment`, for a file of `format`.
fn kill_at(moment: Moment, format: &str) {
    let case = Case::new();
    let mount = case.mount();
    let mut machine = Machine::start(&mount);
    machine.write(9 * MIB, 0x66, 4096);
    let out = case.tiny.file("out");
    let socket = machine.socket.clone();
    let mut args = settle(&socket, &mount, &out);
    args.extend(["--format", format]);
    let mut child = machine.spawn(&[&args[..], &["--rate", "16M"]].concat());
    await_moment(moment, &mut machine, &out);
    child.kill().unwrap();
    let finished = child.wait().unwrap().success();
    let on_mount = !machine.open_files(mount.dir()).is_empty();
    assert!(on_mount || out.exists(), "{moment:?}: neither");
    if out.exists() {
        // What has its name is whole. Nothing was written since.
        machine.lock_free(|| assert_same(&mount, &out, format));
    }
    if finished || !on_mount {
        return;
    }
    // The guest may have been left paused; what it then writes goes to the mount.
    args.push("--force");
    let again = output(SYNTHDISK, &args);
    // QEMU may have been told to switch, and done that by itself.
    let said = text(&again.stderr);
    assert!(again.status.success() || said.contains("may have settled already"), "{said}");
    assert!(machine.is_running(), "{moment:?}");
    machine.write(10 * MIB, 0x77, 4096);
    assert_eq!(machine.open_files(mount.dir()), [""; 0], "{moment:?}");
    assert_eq!(machine.nodes().len(), 2, "{moment:?}: {:?}", machine.nodes());
    machine.quit();
    let raw = case.tiny.file("read.raw");
    run("qemu-img", &["convert", "-f", format, "-O", "raw", arg(&out), arg(&raw)]);
    let bytes = fs::read(&raw).unwrap();
    assert_eq!(bytes[9 * MIB as usize..][..4096], [0x66; 4096], "{moment:?}");
    assert_eq!(bytes[10 * MIB as usize..][..4096], [0x77; 4096], "{moment:?}");
    mount.unmount();
    case.untouched.check();
}

#[test]
fn killed_at_the_switch() {
    kill_at(Moment::Named, "raw");
    kill_at(Moment::Paused, "qcow2");
}

mod matrix {
    use super::{Moment, kill_at};

    #[test]
    #[ignore = "slow"]
    fn killed_at_ten_moments() {
        for format in ["raw", "qcow2"] {
            for milliseconds in [0, 20, 60, 120, 250, 500, 800, 1200] {
                kill_at(Moment::After(milliseconds), format);
            }
            kill_at(Moment::Paused, format);
            kill_at(Moment::Named, format);
        }
    }
}
