//! `synthdisk finalize` of a mount that another process serves.

use std::fs::{self, File};
use std::path::Path;

use crate::common::field::Field;
use crate::common::file::{write_at, writer};
use crate::common::hash::sha256;
use crate::common::mount::LoopDev;
use crate::common::overlay::{Case, wait_until};
use crate::common::process::{
    SYNTHDISK, command, expect_failure, is_root, output, run, run_text, text,
};
use crate::common::tiny::noise;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_mount_is_written_as_it_is_now() {
    let case = Case::new();
    let mounted = case.mount();
    write_at(&writer(mounted.part(1)), &noise(5000, 1), 9 * MIB);
    run("fallocate", &["-p", "-o", "1M", "-l", "1M", arg(&mounted.part(1))]);
    let out = case.tiny.file("out.raw");
    let args = ["finalize", "--json", "-q", "--verify", "--checksum", arg(mounted.dir())];
    let told = run_text(SYNTHDISK, &[&args[..], &["-o", arg(&out)]].concat());
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["files"][0]["sha256"], sha256(mounted.disk()).as_str());
    assert_eq!(sha256(&out), sha256(mounted.disk()));
    let allocated = told["files"][0]["allocated"].as_u64().unwrap();
    assert!(allocated < 8 * MIB, "{allocated}");
    let part = case.tiny.file("part.img");
    run(SYNTHDISK, &["finalize", "--partition", "1", arg(mounted.dir()), "-o", arg(&part)]);
    assert_eq!(sha256(&part), sha256(mounted.part(1)));
    let qcow2 = case.tiny.file("out.qcow2");
    let args = ["finalize", "--format", "qcow2", "--verify", arg(mounted.dir()), "-o", arg(&qcow2)];
    run(SYNTHDISK, &args);
    run("qemu-img", &["compare", arg(&mounted.disk()), arg(&qcow2)]);
    // The mount's own sources are no targets either.
    for target in [&case.tiny.image, &case.overlay, &mounted.disk()] {
        let args = ["finalize", "--force", arg(mounted.dir()), "-o", arg(target)];
        let said = expect_failure(&args, 1);
        assert!(said.contains("is the same as"), "{said}");
    }
    let new = case.tiny.file("new.raw");
    let args = ["finalize", arg(mounted.dir()), "--partition", "8", "-o", arg(&new)];
    assert!(expect_failure(&args, 1).contains("no partition 8"));
    let args = ["finalize", "--overlay", "x", arg(mounted.dir()), "-o", arg(&new)];
    assert_eq!(output(SYNTHDISK, &args).status.code(), Some(2));
    let args = ["finalize", "--reflink", "always", arg(mounted.dir()), "-o", arg(&new)];
    assert!(expect_failure(&args, 1).contains("no blocks to share"));
    mounted.unmount();
    case.untouched.check();
}

/// Writes that begin after the copy are not in it, in whole or in part.
#[test]
fn who_begins_to_write_meanwhile_is_not_in_the_copy() {
    const DATA: u64 = 96 * MIB;
    let case = Case::new();
    let mounted = case.mount_with(&["--swap", "128M"]);
    let swap = writer(mounted.part(2));
    for i in 1..DATA / MIB {
        write_at(&swap, &noise(MIB as usize, i), i * MIB);
    }
    drop(swap);
    let before = sha256(mounted.disk());
    let out = case.tiny.file("out.raw");
    let child = command(SYNTHDISK)
        .args(["finalize", "-q", arg(mounted.dir()), "-o", arg(&out)])
        .spawn()
        .expect("our own binary");
    let pid = Pid::from_raw(child.id().cast_signed());
    let nameless = || {
        fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().any(|fd| {
            let link = fs::read_link(fd.path()).unwrap_or_default();
            link.starts_with(case.tiny.path()) && link.to_string_lossy().ends_with("(deleted)")
        })
    };
    wait_until("it has begun", || nameless() || out.exists());
    kill(pid, Signal::SIGSTOP).unwrap();
    write_at(&writer(mounted.part(2)), &noise(5000, 1), DATA - MIB);
    kill(pid, Signal::SIGCONT).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success());
    assert!(sha256(&out) == before);
    assert!(sha256(mounted.disk()) != before);
    mounted.unmount();
}

#[test]
fn who_writes_to_it_is_named() {
    let case = Case::new();
    let mounted = case.mount();
    let out = case.tiny.file("out.raw");
    let args = ["finalize", arg(mounted.dir()), "-o", arg(&out)];
    let readers = [File::open(mounted.disk()).unwrap(), File::open(mounted.part(1)).unwrap()];
    run(SYNTHDISK, &args);
    drop(readers);
    fs::remove_file(&out).unwrap();
    let me = format!("process {}", std::process::id());
    for file in [mounted.disk(), mounted.part(1)] {
        let writer = writer(&file);
        let said = expect_failure(&args, 1);
        assert!(said.contains(&me) && said.contains("--force"), "{said}");
        assert!(!out.exists());
        let done = output(SYNTHDISK, &[&args[..], &["--force"]].concat());
        let said = text(&done.stderr);
        assert!(done.status.success() && said.contains(&me), "{said}");
        drop(writer);
        fs::remove_file(&out).unwrap();
    }
    if is_root() {
        let device = LoopDev::attach(mounted.part(1), false);
        let said = expect_failure(&args, 1);
        assert!(said.contains("part1.raw"), "{said}");
        drop(device);
    }
    mounted.unmount();
}

#[test]
fn further_disks_of_a_mount() {
    let field = Field::new();
    field.root("root.img", "");
    field.ext4("data.img", crate::common::field::DATA, &[("file", b"x")]);
    let config = "disk = ['file:root.img,xvda1,w', 'file:data.img,xvdb1,w']\n\
                  root = '/dev/xvda1 ro'\nname = 'two'\n";
    let mounted = field.mount(config, &[]);
    let dir = format!("{}/", field.arg("out"));
    fs::create_dir(&dir).unwrap();
    run(SYNTHDISK, &["finalize", arg(mounted.dir()), "-o", &dir]);
    for file in ["disk.raw", "disk-b.raw"] {
        assert_eq!(sha256(mounted.dir().join(file)), sha256(Path::new(&dir).join(file)), "{file}");
    }
    // A writer of one disk does not prevent writing out the other.
    let _writer = writer(mounted.dir().join("disk-b-part1.raw"));
    let args = ["finalize", arg(mounted.dir()), "--force", "--disk"];
    let out = field.arg("out/one.raw");
    run(SYNTHDISK, &[&args[..], &["xvda", "-o", &out]].concat());
    let args = ["finalize", arg(mounted.dir()), "--disk", "disk-b", "-o", &out];
    assert!(expect_failure(&args, 1).contains("exists"));
    fs::remove_file(&out).unwrap();
    assert!(expect_failure(&args, 1).contains("may change"));
}

#[test]
fn a_directory_that_is_no_mount() {
    let case = Case::new();
    let said = expect_failure(
        &["finalize", arg(case.tiny.path()), "-o", arg(&case.tiny.file("new.raw"))],
        1,
    );
    assert!(said.contains("is a directory"), "{said}");
}
