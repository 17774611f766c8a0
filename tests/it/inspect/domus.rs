//! `synthdisk inspect` on real domUs, field by field, compared with what other programs report.

use serde_json::{Value, json};

use crate::common::field::blkid;
use crate::common::guests::{Domu, domu_variant, domu_with};
use crate::common::hash::Untouched;
use crate::common::process::{SYNTHDISK, run, run_text};

/// What is known about a domU without examining it.
struct Expected {
    filesystem: &'static str,
    version: &'static str,
    init: &'static str,
    generator: &'static str,
    /// Where virtio_blk is.
    virtio: &'static str,
    /// Files that must be edited, at least.
    edits: &'static [&'static str],
}

const PLAIN: Expected = Expected {
    filesystem: "ext4",
    version: "12",
    init: "systemd",
    generator: "initramfs-tools",
    virtio: "initrd",
    edits: &["/etc/fstab"],
};

/// What debugfs prints about an ext2/3/4 image.
fn debugfs(domu: &Domu, request: &str) -> String {
    run_text("debugfs", &["-R", request, &domu.disk.to_string_lossy()])
}

fn check(domu: &Domu, expected: &Expected) {
    let untouched = [&domu.disk, &domu.swap].map(Untouched::remember);
    let config = domu.config.to_str().expect("UTF-8");
    let printed = run(SYNTHDISK, &["inspect", "--json", "--config", config]);
    let report: Value = serde_json::from_slice(&printed.stdout).expect("JSON");
    assert_eq!(report["verdict"]["answer"], "boots-with-edits", "{}", report["verdict"]);

    let disk = &report["disks"][0];
    assert_eq!(disk["table"], "mbr");
    let (swap, root) = (&disk["partitions"][0], &disk["partitions"][1]);
    assert_eq!((&swap["type"], &swap["number"]), (&json!("swap"), &json!(1)));
    assert_eq!(swap["uuid"], blkid(&domu.swap, "UUID"));
    assert_eq!(root["type"], expected.filesystem);
    assert_eq!(root["uuid"], blkid(&domu.disk, "UUID"));
    assert_eq!(root["image"], domu.disk.to_str().expect("UTF-8"));
    assert_eq!(root["size"], domu.disk.metadata().expect("it is there").len());
    let is_ext = expected.filesystem.starts_with("ext");
    if is_ext {
        assert_eq!(root["journal"], "clean");
        let state = run_text("dumpe2fs", &["-h".as_ref(), domu.disk.as_os_str()]);
        let number = |key: &str| -> u64 {
            let line = state.lines().find(|l| l.starts_with(key)).expect("dumpe2fs says it");
            line.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number")
        };
        let used = (number("Block count:") - number("Free blocks:")) * number("Block size:");
        assert_eq!(root["usage"]["used"], used);
    }

    let guest = &report["guest"];
    assert_eq!(guest["distribution"]["id"], "debian");
    assert_eq!(guest["distribution"]["version"], expected.version);
    assert_eq!(guest["architecture"], "x86_64");
    assert_eq!(guest["init"], expected.init);
    assert_eq!(guest["network"]["names"], json!(["eth0"]));
    assert_eq!(guest["root_account"], "password");
    assert_eq!(guest["cloud_init"], Value::Null);
    assert_eq!(guest["tools"], json!([]));
    let fstab = guest["fstab"].as_array().expect("an array");
    let foreign = fstab.iter().filter(|e| e["machine_dependent"] == true);
    let foreign: Vec<_> = foreign.map(|e| (&e["source"], &e["mountpoint"])).collect();
    assert_eq!(
        foreign,
        [(&json!("/dev/xvda1"), &json!("none")), (&json!("/dev/xvda2"), &json!("/"))]
    );
    if is_ext {
        assert_eq!(guest["hostname"], debugfs(domu, "cat /etc/hostname"));
    }

    assert_eq!(report["menu"]["path"], "/boot/grub/menu.lst");
    let entries = report["menu"]["entries"].as_array().expect("an array");
    assert_eq!(entries[0]["default"], true);
    assert!(entries[1..].iter().all(|e| e["default"] == false));

    let kernel = &report["kernels"][0];
    let (path, version) = (kernel["path"].as_str().unwrap(), kernel["version"].as_str().unwrap());
    assert_eq!(path, format!("/boot/vmlinuz-{version}"));
    assert_eq!((&kernel["format"], &kernel["default"]), (&json!("bzimage"), &json!(true)));
    let initrd = &kernel["initrds"][0];
    assert_eq!(initrd["path"], format!("/boot/initrd.img-{version}"));
    if is_ext {
        assert!(debugfs(domu, "ls -p /boot").contains(&format!("/vmlinuz-{version}/")));
        let stat = debugfs(domu, &format!("stat /boot/initrd.img-{version}"));
        assert!(stat.contains(&format!("Size: {}\n", initrd["size"])), "{stat}");
    }
    let contents = &initrd["contents"];
    assert_eq!(contents["generator"], expected.generator);
    assert_eq!(contents["kernels"], json!([version]));
    assert_eq!((&contents["has_init"], &contents["problem"]), (&json!(true), &Value::Null));
    let drivers = kernel["drivers"]["drivers"].as_array().expect("an array");
    let place = |name: &str| &drivers.iter().find(|d| d["name"] == name).expect(name)["place"];
    assert_eq!(place("virtio_blk"), expected.virtio);
    assert_eq!(place("ahci"), expected.virtio);
    assert_eq!(place("xen_blkfront"), "initrd");

    let outcome = |name: &str| {
        let checks = report["checks"].as_array().expect("an array");
        checks.iter().find(|c| c["name"] == name).expect(name)["outcome"].clone()
    };
    for name in ["root", "fstab", "network"] {
        assert_eq!(outcome(name), "fixed", "{name}");
    }
    for name in ["kernel", "shadow", "tools", "cloud-init", "firmware"] {
        assert_eq!(outcome(name), "ok", "{name}");
    }
    let driver = if expected.virtio == "initrd" { "ok" } else { "fixed" };
    assert_eq!(outcome("disk driver"), driver);
    let edits = report["edits"].as_array().expect("an array");
    let edited: Vec<&str> = edits.iter().filter_map(|e| e["path"].as_str()).collect();
    assert!(expected.edits.iter().all(|path| edited.contains(path)), "{edited:?}");
    let boots = report["command_line"]["boots"].as_str().expect("it boots");
    assert!(boots.contains(&format!("root=UUID={}", blkid(&domu.disk, "UUID"))), "{boots}");
    assert!(boots.contains("net.ifnames=0") && boots.contains("console=ttyS0"), "{boots}");
    untouched.iter().for_each(Untouched::check);
}

#[test]
#[ignore = "makes domUs as root"]
fn plain_ones() {
    check(&domu_with("domu-bookworm", &["--dist", "bookworm"]), &PLAIN);
    let trixie = domu_with("domu-trixie", &["--dist", "trixie"]);
    check(&trixie, &Expected { version: "13", ..PLAIN });
}

#[test]
#[ignore = "makes domUs as root"]
fn uncommon_ones() {
    let xfs = domu_with("domu-bookworm-xfs", &["--dist", "bookworm", "--fs", "xfs"]);
    check(&xfs, &Expected { filesystem: "xfs", ..PLAIN });
    let btrfs = domu_with("domu-bookworm-btrfs", &["--dist", "bookworm", "--fs", "btrfs"]);
    check(&btrfs, &Expected { filesystem: "btrfs", ..PLAIN });
    let dracut = domu_variant("bookworm", "dracut");
    check(&dracut, &Expected { generator: "dracut", virtio: "module", ..PLAIN });
}

/// Kinds that only `scripts/test --matrix` makes.
mod matrix {
    use super::*;

    #[test]
    #[ignore = "makes domUs as root"]
    fn older_ones() {
        let ext3 = domu_with("domu-bookworm-ext3", &["--dist", "bookworm", "--fs", "ext3"]);
        check(&ext3, &Expected { filesystem: "ext3", ..PLAIN });
        let bullseye = domu_with("domu-bullseye", &["--dist", "bullseye"]);
        check(&bullseye, &Expected { version: "11", ..PLAIN });
        let options = ["--dist", "bookworm", "--role", "sysvinit"];
        let sysvinit = domu_with("domu-bookworm-sysvinit", &options);
        let edits = &["/etc/fstab", "/etc/inittab"];
        check(&sysvinit, &Expected { init: "sysvinit", edits, ..PLAIN });
    }
}
