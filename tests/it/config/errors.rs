//! An error in a config is reported in one message that names the line, and nothing is left over.

use std::fs;

use crate::common::field::{DATA, Field, mount};
use crate::common::process::{expect_failure, run};

const MIB: u64 = 1 << 20;

#[test]
fn one_line_that_says_where() {
    let field = Field::new();
    field.root("root.img", "");
    field.ext4("data.img", DATA, &[]);
    field.swap("swap.img", MIB, "s");
    run("qemu-img", &["create", "-q", "-f", "qcow2", &field.arg("disk.qcow2"), "10M"]);
    fs::create_dir(field.path("dir")).unwrap();
    fs::write(field.path("empty.img"), b"").unwrap();
    for (text, parts) in [
        // The config itself.
        ("", &["names no disk"][..]),
        ("name = 'x'\n# disk = ['root.img,,xvda1']\n", &["names no disk"]),
        ("disk = [',,hdc,cdrom']\n", &["names no disk"]),
        ("import os\n", &["line 1", "Python", "'import'"]),
        ("name = 'x'\n\nif 1:\n  disk = []\n", &["line 3", "Python", "'if'"]),
        ("name = 'x'\nmemory = 128 * 4\n", &["line 2"]),
        ("name = 'x'\ndisk = ['root.img,,xvda1'\n", &["line"]),
        ("name = 'x\n", &["line 1"]),
        ("memory = 'lots'\ndisk = ['root.img,,xvda1']\n", &["line 1", "'memory'", "lots"]),
        // Its disks.
        ("\ndisk = [\n'root.img,,xvda1',\n'gone.img,,xvda2']\n", &["line 4", "xvda2", "gone.img"]),
        ("disk = ['file:gone.img,xvda,w']\n", &["line 1", "xvda", "gone.img"]),
        ("disk = ['phy:vg0/gone,xvda1,w']\n", &["line 1", "xvda1", "vg0/gone"]),
        ("disk = ['dir,,xvda1']\n", &["line 1", "directory"]),
        ("disk = ['empty.img,,xvda1']\n", &["line 1", "empty"]),
        ("disk = ['disk.qcow2,,xvda1']\n", &["line 1", "xvda1", "qcow2", "format=qcow2"]),
        ("disk = ['disk.qcow2,,xvda']\n", &["line 1", "xvda", "qcow2", "format=qcow2"]),
        ("disk = ['root.img,qcow2,xvda']\n", &["line 1", "xvda", "qcow2", "not a qcow2 file"]),
        ("disk = ['root.img,vhd,xvda']\n", &["line 1", "xvda", "VHD", "no VHD footer"]),
        ("disk = ['root.img,qed,xvda']\n", &["line 1", "qed", "qemu-img convert"]),
        ("disk = ['root.img,floppy,xvda']\n", &["line 1", "floppy"]),
        ("disk = ['root.img,,xvda1',\n'data.img,,xvda1']\n", &["line 2", "xvda1", "line 1"]),
        ("disk = ['root.img,,xvda',\n'data.img,,xvda1']\n", &["line 2", "xvda1", "whole disk"]),
        ("disk = ['root.img,,xvda1',\n'data.img,,sda2']\n", &["line 2", "xvda", "sda"]),
        ("disk = ['root.img,,tape0']\n", &["line 1", "tape0"]),
        ("disk = ['root.img,,xvda1,rx']\n", &["line 1", "rx"]),
        ("disk = ['iqn.2001,raw,xvda,script=block-iscsi']\n", &["line 1", "block-iscsi"]),
        // What boots.
        ("disk = ['swap.img,,xvda1']\n", &["no partition holds a kernel"]),
        ("disk = ['data.img,,xvda1']\n", &["no kernel found", "--kernel"]),
        ("kernel = '/gone'\ndisk = ['root.img,,xvda1']\n", &["/gone", "--guest-kernel"]),
        ("kernel = 'gone'\ndisk = ['root.img,,xvda1']\n", &["/gone", "--guest-kernel"]),
        ("kernel = 'data.img'\ndisk = ['root.img,,xvda1']\n", &["data.img", "--guest-kernel"]),
    ] {
        let said = field.refused(text, &[]);
        for part in parts {
            assert!(said.contains(part), "no {part:?} in {said:?}, config {text:?}");
        }
        // Messages about a line also name the file.
        assert!(!said.contains("line ") || said.contains("domu.cfg: line "), "{said}");
        assert!(said.len() < 700, "{} bytes: {said}", said.len());
    }
    let left: Vec<_> = fs::read_dir(field.path("refused")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_is_not_a_config() {
    let field = Field::new();
    let dir = field.path("mnt");
    fs::create_dir(&dir).unwrap();
    let dir = dir.to_string_lossy();
    let root = field.root("root.img", "");
    let root = root.to_string_lossy();
    for (config, part) in [("gone.cfg", "gone.cfg"), ("mnt", "mnt"), ("root.img", "root.img")] {
        let said = expect_failure(&["mount", "--config", &field.arg(config), &dir], 1);
        assert!(said.contains(part), "{said}");
    }
    let config = field.config("disk = ['root.img,,xvda1']\n");
    let said = expect_failure(&["mount", "--config", &config, &root, &dir], 2);
    assert!(said.contains("--config"), "{said}");
    let said = expect_failure(&["mount", &dir], 2);
    assert!(said.contains("--config"), "{said}");
    let both = ["mount", "--config", &config, "--overlay", "a", "--overlay-dir", "b", &dir];
    expect_failure(&both, 2);
    expect_failure(&["mount", "--config", &config, "--guest-kernel", "--kernel", "k", &dir], 2);
}

/// Unknown settings are no error; ignored ones are reported once.
#[test]
fn notes_of_what_is_not_done() {
    let field = Field::new();
    field.root("root.img", "");
    let config = field.config(
        "name = 'x'\nfuture_setting = 'y'\npci = ['01:00.0']\nvfb = ['type=vnc']\nusb = 0\n\
         disk = ['root.img,,xvda1,backend=dom3']\non_crash = 'preserve'\nvtpm = []\n",
    );
    let mounted = mount(&config, &[]);
    let printed = mounted.printed();
    let notes: Vec<_> = printed.lines().filter(|l| l.starts_with("note: ")).collect();
    assert_eq!(notes.len(), 3, "{printed}");
    for (line, key) in [(3, "pci"), (4, "vfb"), (6, "dom3")] {
        let there = |n: &&&str| n.contains(&format!("line {line}: ")) && n.contains(key);
        assert_eq!(notes.iter().filter(there).count(), 1, "{notes:?}");
    }
    mounted.unmount();
}
