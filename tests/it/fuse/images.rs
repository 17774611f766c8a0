//! Images that are not raw: the same disk as of the raw image, and only where their name, the
//! config or an option says so.

use std::fs;
use std::path::Path;

use crate::common::field::{Field, map};
use crate::common::hash::{Untouched, sha256};
use crate::common::mount::{Mount, expect_no_mount};
use crate::common::process::run;
use crate::common::tiny::Tiny;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn convert(from: &Path, to: &Path, options: &[&str]) {
    let args = [&["convert", "-O", "qcow2"][..], options, &[text(from), text(to)]].concat();
    run("qemu-img", &args);
}

#[test]
fn a_qcow2_image_is_the_disk_that_it_holds() {
    let tiny = Tiny::new();
    let mount = Mount::new(&[], &tiny.image);
    let expected = sha256(mount.disk());
    mount.unmount();
    for (name, options, said) in [
        ("a.qcow2", &[][..], &[][..]),
        ("b.qcow2", &["-c"], &[]),
        ("c.qcow2", &["-o", "compat=0.10,cluster_size=4k"], &[]),
        ("d.img", &[], &["--image-format", "qcow2"]),
    ] {
        let image = tiny.file(name);
        convert(&tiny.image, &image, options);
        let untouched = Untouched::remember(&image);
        let mount = Mount::new(said, &image);
        assert_eq!(sha256(mount.disk()), expected, "{name}");
        // Held against writers, as a raw image is.
        let write = ["-f", "qcow2", "-c", "write 0 512", text(&image)];
        assert!(!crate::common::process::output("qemu-io", &write).status.success());
        mount.unmount();
        untouched.check();
    }
}

#[test]
fn a_raw_image_never_becomes_a_chain() {
    let tiny = Tiny::new();
    let (base, top) = (tiny.file("base.qcow2"), tiny.file("top.qcow2"));
    convert(&tiny.image, &base, &[]);
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", text(&base), text(&top)]);
    // Where a guest has written the header of a chain into its raw image, its base is not opened.
    let raw = tiny.file("raw.img");
    fs::copy(&top, &raw).unwrap();
    let said = expect_no_mount(&[text(&raw)]);
    assert!(said.contains("read as raw") && said.contains("qcow2"), "{said}");
}

#[test]
fn a_config_says_the_format() {
    let field = Field::new();
    let raw = field.root("root.img", "");
    let config = |spec: &str| field.config(&format!("disk = ['{spec}']\n"));
    let kernel_of = |config: &str| map(config, &[])["disks"].clone();
    let expected = kernel_of(&config("root.img,raw,xvda1"));
    convert(&raw, &field.path("root"), &[]);
    let found = kernel_of(&config("root,qcow2,xvda1"));
    assert_eq!(found[0]["image_files"][0][0]["format"], "qcow2");
    let without_paths = |map: &serde_json::Value| {
        map.to_string()
            .replace(text(&field.path("root.img")), "IMAGE")
            .replace(text(&field.path("root")), "IMAGE")
            .replace("\"format\":\"qcow2\"", "\"format\":\"raw\"")
    };
    assert_eq!(without_paths(&found), without_paths(&expected));
}
