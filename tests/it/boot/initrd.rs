//! Real domUs whose initrds have no driver for a virtio disk.

use std::path::Path;
use std::time::Duration;

use crate::common::console::{Disk, Guest};
use crate::common::guests::{Domu, domu_variant};
use crate::common::hash::Untouched;
use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, output, run_text, text};

/// About 50 s on a busy machine under TCG.
const BOOT: Duration = Duration::from_secs(300);

fn boots_from_virtio(kind: &str) {
    let domu: Domu = domu_variant("bookworm", kind);
    let untouched = Untouched::remember(&domu.disk);
    let mount = Mount::new(&[], &domu.disk);
    let mut guest = Guest::builder()
        .disk(Disk::new(mount.disk()))
        .memory(512)
        .args(&["-nic", "user,model=virtio-net-pci"])
        .start();
    guest.login("root", "root", BOOT);
    let cmdline = guest.run_ok("cat /proc/cmdline");
    assert!(cmdline.contains(" rdinit=/synthdisk/init"), "{cmdline}");
    assert!(guest.run_ok("findmnt -no SOURCE,OPTIONS /").starts_with("/dev/vda1 rw"));
    let modules = guest.run_ok("lsmod");
    for module in ["virtio_blk", "virtio_pci"] {
        assert!(modules.lines().any(|l| l.starts_with(&format!("{module} "))), "{modules}");
    }
    assert_eq!(guest.run_ok("cat /proc/1/comm"), "systemd");
    // The card's driver comes from the root filesystem.
    let lacks = guest.run_ok("dmesg | grep synthdisk: || true");
    assert_eq!(lacks, "", "a module could not be loaded");
    let address = guest.run_ok(
        "for i in 1 2 3 4 5 6 7 8 9; do ip -4 -o addr show eth0 | \
         grep 10.0.2 && break; sleep 2; done",
    );
    assert!(address.contains("10.0.2."), "{address}");

    // The guest's own initrd is still what the next boot finds.
    guest.reboot(BOOT);
    guest.login("root", "root", BOOT);
    guest.poweroff_and_wait(BOOT);
    mount.fsck();
    mount.unmount();
    untouched.check();
}

/// Kinds that only `scripts/test --matrix` boots.
mod matrix {
    use super::*;

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn dracut_host_only() {
        boots_from_virtio("dracut");
    }

    /// Neither a shell nor insmod, and in the compression whose end nobody finds.
    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn an_initrd_without_a_shell() {
        boots_from_virtio("noshell");
    }

    /// Drivers that the guest has nowhere can't be added: another bus and another card do.
    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn another_bus_where_there_is_no_driver() {
        let domu = domu_variant("bookworm", "nomodule");
        let untouched = Untouched::remember(&domu.disk);
        let image = domu.disk.to_str().expect("UTF-8");

        let planned = run_text(SYNTHDISK, &["map", "--json", image]);
        let planned: serde_json::Value = serde_json::from_str(&planned).unwrap();
        let hardware = serde_json::json!({ "bus": "ahci", "nic": "e1000" });
        assert_eq!(planned["boot"]["hardware"], hardware, "{planned}");
        let warning = planned["boot"]["warnings"][0].as_str().unwrap_or_default();
        assert!(warning.contains("no virtio_blk") && warning.contains("AHCI"), "{warning}");
        assert!(!planned["boot"]["cmdline"].as_str().unwrap().contains("rdinit="));

        let dry = run_text(SYNTHDISK, &["run", "--dry-run", "--accel", "tcg", image]);
        assert!(
            dry.contains("ich9-ahci") && dry.contains("e1000") && !dry.contains("virtio-blk"),
            "{dry}"
        );
        let said = ["run", "--dry-run", "--accel", "tcg", "--bus", "nvme", image];
        assert!(run_text(SYNTHDISK, &said).contains("-device nvme,"), "what is said goes first");

        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("console");
        let args = ["run", "--accel", "tcg", "--memory", "512", "--vcpus", "2", "--timeout", "5m"];
        let more = ["--expect", "login:", "--log", log.to_str().unwrap(), image];
        let result = output(Path::new(SYNTHDISK), &[&args[..], &more].concat());
        let said = text(&result.stderr);
        let console = std::fs::read_to_string(&log).unwrap_or_default();
        assert_eq!(result.status.code(), Some(0), "{said}\n{console}");
        assert!(said.contains("no virtio_blk"), "{said}");
        assert!(console.contains("sda: sda1 sda2"), "{console}");
        untouched.check();
    }
}
