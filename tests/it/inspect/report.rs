//! `synthdisk inspect`: its report, field by field.

use serde_json::{Value, json};

use crate::common::field::{FSTAB, Field, ROOT, SWAP};
use crate::common::process::{SYNTHDISK, expect_failure, run};
use crate::common::tiny::{fake_kernel, menu};

fn inspect(args: &[&str]) -> Value {
    let args = [&["inspect", "--json"], args].concat();
    serde_json::from_slice(&run(SYNTHDISK, &args).stdout).expect("JSON")
}

fn printed(args: &[&str]) -> String {
    String::from_utf8(run(SYNTHDISK, &[&["inspect"], args].concat()).stdout).expect("UTF-8")
}

/// The outcome of each check by its name.
fn outcomes(report: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().expect("a string").to_owned();
    let checks = report["checks"].as_array().expect("an array");
    checks.iter().map(|c| (text(&c["name"]), text(&c["outcome"]))).collect()
}

fn outcome(report: &Value, name: &str) -> String {
    let found = outcomes(report).into_iter().find(|(n, _)| n == name);
    found.unwrap_or_else(|| panic!("no check {name}")).1
}

#[test]
fn a_guest_of_xen_tools() {
    let (field, config) = Field::xen_tools();
    let report = inspect(&["--config", &config]);
    assert_eq!(report["name"], "domu");
    assert_eq!(report["verdict"]["answer"], "boots-with-edits");
    let disk = &report["disks"][0];
    assert_eq!((&disk["file"], &disk["vdev"]), (&json!("disk.raw"), &json!("xvda")));
    assert_eq!((&disk["table"], &disk["firmware"]), (&json!("mbr"), &json!("bios")));
    let (swap, root) = (&disk["partitions"][0], &disk["partitions"][1]);
    assert_eq!((&swap["type"], &swap["uuid"]), (&json!("swap"), &json!(SWAP)));
    assert_eq!((&root["type"], &root["uuid"]), (&json!("ext4"), &json!(ROOT)));
    assert_eq!((&root["journal"], &root["number"]), (&json!("clean"), &json!(2)));
    assert_eq!(root["image"], field.arg("disk.img"));
    let (size, used) = (&root["usage"]["size"], &root["usage"]["used"]);
    assert_eq!(*size, 16 << 20);
    assert!(used.as_u64().is_some_and(|used| used > 1 << 20 && used < 16 << 20), "{used}");

    let guest = &report["guest"];
    assert_eq!(guest["partition"], "part2.raw");
    let foreign: Vec<&Value> = guest["fstab"].as_array().unwrap().iter().collect();
    let of = |i: usize| (&foreign[i]["source"], &foreign[i]["machine_dependent"]);
    assert_eq!(of(0), (&json!("proc"), &json!(false)));
    assert_eq!(of(2), (&json!("/dev/xvda2"), &json!(true)));
    assert_eq!(report["edits"][0]["path"], "/etc/fstab");
    assert_eq!(report["edits"][0]["step"], "fstab");
    assert_eq!(outcome(&report, "fstab"), "fixed");
    assert_eq!(outcome(&report, "root"), "fixed");
    assert_eq!(outcome(&report, "kernel"), "ok");
    assert_eq!(outcome(&report, "disk driver"), "ok");
    let drivers = report["kernels"][0]["drivers"]["drivers"].as_array().unwrap();
    let place = |name: &str| &drivers.iter().find(|d| d["name"] == name).unwrap()["place"];
    assert_eq!((place("virtio_blk"), place("ahci")), (&json!("builtin"), &json!("missing")));
    assert_eq!(report["kernels"][0]["version"], "6.1.0-tiny");
    assert_eq!(report["kernels"][0]["default"], true);
    assert_eq!(report["kernels"][0]["format"], "bzimage");
    assert!(printed(&["--config", &config]).starts_with("domu: boots, with edits in /etc/fstab"));

    // Edits that are in the overlay are not listed again.
    let overlay = field.arg("o.qcow2");
    run(SYNTHDISK, &["adapt", "--overlay", &overlay, "--config", &config]);
    let report = inspect(&["--overlay", &overlay, "--config", &config]);
    assert_eq!(report["edits"], json!([]));
    assert_eq!(outcome(&report, "fstab"), "ok");
}

#[test]
fn what_is_in_the_root_filesystem() {
    let field = Field::new();
    let (kernel, menu) = (fake_kernel(1), menu("9.9"));
    let files: &[(&str, &[u8])] = &[
        ("boot/vmlinuz-9.9", &kernel),
        ("boot/grub/menu.lst", menu.as_bytes()),
        ("etc/fstab", b"UUID=x / ext4 defaults 0 1\n"),
        ("etc/os-release", b"ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian 12\"\n"),
        ("etc/hostname", b"web1\n"),
        ("etc/inittab", b"1:2345:respawn:/sbin/getty 38400 hvc0\n"),
        ("sbin/init", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0rest"),
        ("etc/network/interfaces", b"auto eth0\niface eth0 inet dhcp\n"),
        ("etc/shadow", b"root::1:0:99999:7:::\n"),
        ("usr/sbin/xe-daemon", b""),
        ("usr/sbin/VBoxService", b""),
        ("usr/bin/cloud-init", b""),
    ];
    let image = field.ext4("root.img", ROOT, files);
    field.guard(&image);
    let report = inspect(&[&field.arg("root.img")]);
    let guest = &report["guest"];
    let expected = json!({"id": "debian", "version": "12", "name": "Debian 12"});
    assert_eq!(guest["distribution"], expected);
    assert_eq!(guest["architecture"], "x86_64");
    assert_eq!(guest["init"], "sysvinit");
    assert_eq!(guest["hostname"], "web1");
    assert_eq!(guest["network"]["names"], json!(["eth0"]));
    assert_eq!(guest["console"]["terminals"], json!(["hvc0"]));
    assert_eq!(guest["root_account"], "no-password");
    let tools: Vec<&Value> =
        guest["tools"].as_array().unwrap().iter().map(|t| &t["name"]).collect();
    assert_eq!(tools, [&json!("xe-guest-utilities"), &json!("VirtualBox Guest Additions")]);
    assert_eq!(guest["cloud_init"], json!({"enabled": true, "nocloud": true}));
    for (name, expected) in [
        ("shadow", "warn"),
        ("tools", "warn"),
        ("network", "fixed"),
        ("console", "fixed"),
        ("cloud-init", "ok"),
        ("journal", "ok"),
    ] {
        assert_eq!(outcome(&report, name), expected, "{name}");
    }
}

#[test]
fn what_does_not_boot() {
    let field = Field::new();
    field.ext4("empty.img", ROOT, &[("etc/fstab", FSTAB.as_bytes())]);
    let report = inspect(&[&field.arg("empty.img")]);
    assert_eq!(report["verdict"]["answer"], "does-not-boot");
    let text = report["verdict"]["text"].as_str().unwrap();
    assert!(text.starts_with("does not boot: no kernel found in the guest"), "{text}");
    assert!(report["verdict"]["advice"].is_string());
    // The rest of the report is complete.
    assert_eq!(report["disks"][0]["partitions"][0]["type"], "ext4");
    assert_eq!(report["guest"]["fstab"][1]["source"], "/dev/xvda1");

    let kernel = b"\x7fELF a kernel of the days when Xen was young";
    let (old, menu) = ("boot/vmlinuz-2.6.18-xen", menu("2.6.18-xen"));
    let files: &[(&str, &[u8])] =
        &[(old, kernel), ("boot/grub/menu.lst", menu.as_bytes()), ("etc/fstab", b"")];
    field.ext4("pv.img", ROOT, files);
    let report = inspect(&[&field.arg("pv.img")]);
    assert_eq!(report["verdict"]["answer"], "does-not-boot");
    let text = report["verdict"]["text"].as_str().unwrap();
    assert!(text.contains("Xen paravirtualisation only"), "{text}");
    assert_eq!(report["kernels"][0]["format"], "pv-only");
    assert_eq!(report["kernels"][0]["version"], "2.6.18-xen");
}

/// Titles, labels and names from an untrusted image cannot control the terminal.
#[test]
fn a_hostile_guest_says_nothing_to_the_terminal() {
    let field = Field::new();
    let evil = "\x1b]0;evil\x07\u{9b}2J";
    let (kernel, menu) = (fake_kernel(1), menu("9.9").replace("Tiny", evil));
    let fstab =
        format!("/dev/xvda1 / ext4 defaults 0 1\n/dev/disk/by-path/{evil} /x ext4 ro 0 0\n");
    let release = format!("ID=x\nPRETTY_NAME=\"{evil}\"\n");
    let named = "etc/modprobe.d/a\nrm etc";
    let files: &[(&str, &[u8])] = &[
        ("boot/vmlinuz-9.9", &kernel),
        ("boot/grub/menu.lst", menu.as_bytes()),
        ("etc/fstab", fstab.as_bytes()),
        ("etc/os-release", release.as_bytes()),
        ("etc/hostname", evil.as_bytes()),
        (named, b"blacklist virtio_blk\n"),
    ];
    let image = field.ext4("root.img", ROOT, files);
    field.guard(&image);
    let told = printed(&[&field.arg("root.img")]);
    assert!(told.contains("\\u{1b}]0;evil\\u{7}\\u{9b}2J"), "{told}");
    assert!(!told.contains(|c: char| c.is_control() && c != '\n'), "{told:?}");
    // The other edits are made all the same.
    let overlay = field.arg("o.qcow2");
    let said = run(SYNTHDISK, &["adapt", "--overlay", &overlay, &field.arg("root.img")]).stderr;
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("adapted: /etc/fstab: "), "{said}");
    assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{said:?}");
    let report = inspect(&["--overlay", &overlay, &field.arg("root.img")]);
    assert_eq!(report["edits"], json!([]));
}

/// A filesystem whose UUID differs from the one in its boot menu.
#[test]
fn a_root_that_no_partition_has() {
    let field = Field::new();
    let (kernel, menu) = (fake_kernel(1), menu("9.9"));
    let menu = menu.replace("root=/dev/xvda2", &format!("root=UUID={SWAP}"));
    let files: &[(&str, &[u8])] = &[
        ("boot/vmlinuz-9.9", &kernel),
        ("boot/initrd.img-9.9", b"070701"),
        ("boot/grub/menu.lst", menu.as_bytes()),
        ("etc/fstab", b"LABEL=UEFI /boot/efi vfat defaults 0 1\n"),
    ];
    let image = field.ext4("root.img", ROOT, files);
    field.guard(&image);
    let report = inspect(&[&field.arg("root.img")]);
    assert_eq!(outcome(&report, "root"), "fail");
    let notes = report["notes"].as_array().unwrap();
    assert!(
        notes.iter().any(|n| n.as_str().unwrap().contains("none of the partitions")),
        "{notes:?}"
    );
    assert_eq!(report["verdict"]["answer"], "does-not-boot");
    let advice = report["verdict"]["advice"].as_str().unwrap();
    let append = format!("root=UUID={ROOT}");
    assert!(advice.contains(&append), "{advice}");
    // Following the advice works.
    let report = inspect(&["--append", &append, &field.arg("root.img")]);
    // There are no modules, and its initrd is none.
    assert_eq!(report["verdict"]["answer"], "unknown");
    assert_eq!(outcome(&report, "fstab"), "fixed");
    assert_eq!(report["edits"][0]["why"], "LABEL=UEFI not found; added nofail");
}

#[test]
fn what_is_no_guest() {
    let field = Field::new();
    std::fs::write(field.path("noise"), vec![7; 1 << 20]).unwrap();
    let report = inspect(&[&field.arg("noise")]);
    assert_eq!(report["verdict"]["answer"], "does-not-boot");
    assert_eq!(report["disks"][0]["partitions"][0]["type"], "unknown");
    expect_failure(&["inspect", &field.arg("none")], 1);
    expect_failure(&["inspect"], 2);
    let said = expect_failure(&["inspect", "--overlay", &field.arg("o"), &field.arg("noise")], 1);
    assert!(said.contains("does not exist"), "{said}");
    assert!(!field.path("o").exists());
}
