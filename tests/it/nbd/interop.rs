//! What clients of others say of the server, and do with it.

use std::fs;

use crate::common::hash::{Untouched, sha256};
use crate::common::mount::Mount;
use crate::common::process::{have, run, run_text, skip};
use crate::common::serve::Served;
use crate::common::tiny::{Tiny, noise};

#[test]
fn nbdinfo_and_nbdcopy() {
    if !have("nbdinfo") || !have("nbdcopy") {
        return skip("no libnbd");
    }
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let options = ["--swap", "8M"];
    let (served, mount) = (Served::new(&options, &tiny.image), Mount::new(&options, &tiny.image));
    let info = run_text("nbdinfo", &[&served.uri("")]);
    for line in
        ["can_multi_conn: true", "can_fast_zero: true", "base:allocation", "export=\"disk.raw\""]
    {
        assert!(info.contains(line), "{line}: {info}");
    }
    let list = run_text("nbdinfo", &["--list", &served.uri("")]);
    assert_eq!(list.matches("export=").count(), 3, "{list}");
    let copy = tiny.file("copy");
    run("nbdcopy", &[&served.uri(""), &*copy.to_string_lossy()]);
    assert_eq!(sha256(&copy), sha256(mount.disk()));
    // And back, with several connections, over other bytes.
    let other = tiny.file("other");
    let mut bytes = noise(16 << 20, 11);
    bytes[1 << 20..9 << 20].fill(0);
    fs::write(&other, &bytes).unwrap();
    run("nbdcopy", &["-C", "4", "--flush", &other.to_string_lossy(), &served.uri("part1.raw")]);
    run("nbdcopy", &["--allocated", &served.uri("part1.raw"), &copy.to_string_lossy()]);
    assert!(fs::read(&copy).unwrap() == bytes);
    untouched.check();
}

#[test]
fn qemu_img() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let options = ["--swap", "8M"];
    let (served, mount) = (Served::new(&options, &tiny.image), Mount::new(&options, &tiny.image));
    let disk = mount.disk().to_string_lossy().into_owned();
    let raw = ["-f", "raw", "-F", "raw"];
    run("qemu-img", &[&["compare", "-s"], &raw[..], &[&served.uri(""), &disk]].concat()[..]);
    // It finds the same holes.
    let map = |file: &str| -> Vec<serde_json::Value> {
        let text = run_text("qemu-img", &["map", "-f", "raw", "--output=json", file]);
        let runs: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        let shape =
            |run: &serde_json::Value| serde_json::json!([run["start"], run["length"], run["zero"]]);
        runs.iter().map(shape).collect()
    };
    assert_eq!(map(&served.uri("")), map(&disk));
    let copy = tiny.file("copy.qcow2").to_string_lossy().into_owned();
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &served.uri(""), &copy]);
    run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", &copy, &disk]);
    let bench = |more: &[&str]| {
        let args = ["bench", "-f", "raw", "-t", "none", "-c", "2000", "-d", "16", "-S", "69632"];
        run("qemu-img", &[&args[..], more, &[&served.uri("")]].concat());
    };
    bench(&[]);
    bench(&["-w", "--flush-interval=100"]);
    // Written by QEMU, which uses extended headers where it has them.
    run("qemu-img", &["convert", "-n", "-f", "qcow2", "-O", "raw", &copy, &served.uri("")]);
    run("qemu-img", &[&["compare"], &raw[..], &[&served.uri(""), &disk]].concat()[..]);
    untouched.check();
}
