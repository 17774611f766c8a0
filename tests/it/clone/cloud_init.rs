//! The disk for cloud-init: what other programs read from it, and where it is listed.

use std::fs;
use std::path::Path;

use crate::common::field::{Field, blkid, mount};
use crate::common::process::{run, run_text, synthdisk, text};

const USER: &str = "#cloud-config\nhostname: web2\n";

fn read(disk: &Path, name: &str) -> String {
    run_text("mcopy", &["-n", "-i", &disk.to_string_lossy(), &format!("::{name}"), "-"])
}

#[test]
fn what_cloud_init_finds() {
    let (field, config) = Field::xen_tools();
    fs::write(field.path("user"), USER).unwrap();
    fs::write(field.path("meta"), "instance-id: i-1\n").unwrap();
    fs::write(field.path("net"), "version: 2\n").unwrap();
    let option = format!("--cloud-init={}", field.arg("user"));
    let mounted = mount(&config, &[&option, "--hostname=web2"]);
    let disk = mounted.dir().join("cidata.raw");
    assert_eq!(blkid(&disk, "LABEL"), "cidata");
    assert_eq!(blkid(&disk, "TYPE"), "vfat");
    assert!(fs::metadata(&disk).unwrap().len() <= 2 << 20);
    assert_eq!(read(&disk, "user-data"), USER.trim_end());
    let meta = read(&disk, "meta-data");
    let (id, name) = meta.split_once('\n').unwrap();
    assert!(id.starts_with("instance-id: ") && id.len() > 30, "{meta}");
    assert_eq!(name, "local-hostname: \"web2\"");
    let listing = run_text("mdir", &["-b", "-i", &disk.to_string_lossy(), "::"]);
    assert!(!listing.contains("network-config"), "{listing}");
    if crate::common::process::have("fsck.vfat") {
        run("fsck.vfat", &["-n".as_ref(), disk.as_os_str()]);
    }
    fs::OpenOptions::new().write(true).open(&disk).expect_err("it is read-only");
    let printed = mounted.printed();
    let try_it = printed.lines().find(|l| l.starts_with("try it:")).unwrap();
    let drive = try_it.split(" -drive ").find(|part| part.contains("/cidata.raw,format=raw"));
    assert!(drive.expect(try_it).contains("virtio-blk-pci,"), "{try_it}");
    let status = fs::read_to_string(mounted.dir().join(".synthdisk.json")).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["disks"][1]["file"], "cidata.raw");
    assert_eq!(status["disks"][1]["read_only"], true);
    let bytes = fs::read(&disk).unwrap();
    // libvirt gets it as well.
    let xml = synthdisk(&[
        "libvirt-xml",
        "--config",
        &config,
        "--mountpoint",
        &mounted.dir().to_string_lossy(),
    ]);
    assert!(text(&xml.stdout).contains("/cidata.raw'"), "{}", text(&xml.stdout));
    mounted.unmount();

    // The same files make the same disk, and others make another.
    crate::common::clock::next_second(2);
    let mounted = mount(&config, &[&option, "--hostname=web2"]);
    assert!(fs::read(mounted.dir().join("cidata.raw")).unwrap() == bytes);
    mounted.unmount();
    let all = ["user", "meta", "net"].map(|name| field.arg(name)).join(",");
    // A read-only mount edits nothing, and this is no edit.
    let mounted = mount(&config, &["--read-only", &format!("--cloud-init={all}")]);
    let disk = mounted.dir().join("cidata.raw");
    assert_eq!(read(&disk, "meta-data"), "instance-id: i-1");
    assert_eq!(read(&disk, "network-config"), "version: 2");
    mounted.unmount();
}

#[test]
fn run_attaches_it() {
    let (field, config) = Field::xen_tools();
    fs::write(field.path("user"), "hello\n").unwrap();
    let option = format!("--cloud-init={}", field.arg("user"));
    let shown = synthdisk(&[
        "run",
        "--dry-run",
        "--accel=tcg",
        "--config",
        &config,
        &option,
        "--hostname=web2",
    ]);
    let line = text(&shown.stdout);
    assert!(line.contains("guest=web2"), "{line}");
    assert!(line.contains("MOUNTPOINT/cidata.raw"), "{line}");
    let node = line.split(" -").find(|w| w.contains("cidata.raw")).unwrap();
    assert!(node.contains("read-only=on"), "{node}");
    let shown =
        synthdisk(&["run", "--dry-run", "--accel=tcg", "--bus=ide", "--config", &config, &option]);
    assert!(text(&shown.stdout).contains("virtio-blk-pci,drive=disk1"), "{}", text(&shown.stdout));
    // Input that cloud-init would ignore gets a note.
    let mounted = mount(&config, &[&option]);
    assert!(
        mounted.printed().contains("note:    cloud-init will not recognise"),
        "{}",
        mounted.printed()
    );
    mounted.unmount();
}
