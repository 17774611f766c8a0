//! Real domUs of several releases, filesystems and init systems: what each reports after booting.
//!
//! A guest boots once, and everything is checked in that one login. What it printed is on
//! stderr (`--nocapture`); `docs/RESULTS.md` is written from it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::console::{Disk, Guest};
use crate::common::guests::{BUSY_FILES, Domu, domu_with, write_durably};
use crate::common::hash::Untouched;
use crate::common::mount::Mount;
use crate::common::process::{run, run_text};

/// About 30 s on an idle machine under TCG.
const BOOT: Duration = Duration::from_secs(300);

/// A domU and what it must be when it has booted.
struct Case {
    name: &'static str,
    /// Options of `scripts/make-domu`.
    made_with: &'static [&'static str],
    filesystem: &'static str,
    init: Init,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Init {
    Systemd,
    Sysvinit,
}

impl Case {
    fn domu(&self) -> Domu {
        domu_with(self.name, self.made_with)
    }

    /// Boots the guest from its config, asks everything, and shuts it down.
    fn check(&self) {
        self.check_domu(&self.domu(), |_| ());
    }

    /// [`Case::check`] of a domU like this one; `more` checks what is particular to it.
    fn check_domu(&self, domu: &Domu, more: impl FnOnce(&mut Guest)) {
        let untouched = [&domu.disk, &domu.swap, &domu.config].map(Untouched::remember);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let overlay = dir.path().join("overlays");
        let config = domu.config.to_string_lossy();
        let options = ["--config", &*config, "--overlay-dir", &*overlay.to_string_lossy()];
        let mount = Mount::of(&options, &[]);
        let name = self.name;
        eprintln!("== {name}: mount said\n{}", mount.printed());
        let mut guest = Guest::builder()
            .disk(Disk::new(mount.disk()))
            .memory(512)
            .args(&["-nic", "user,model=virtio-net-pci"])
            .start();
        guest.login("root", "root", BOOT);
        eprintln!("== {name}: shell after {:.1} s", guest.uptime().as_secs_f32());
        if self.init == Init::Systemd {
            let state = guest.try_run("systemctl is-system-running --wait", BOOT);
            state.unwrap_or_else(|e| panic!("{e}"));
        }
        eprintln!("== {name}: settled after {:.1} s", guest.uptime().as_secs_f32());
        report(&mut guest, self.init);
        match self.init {
            Init::Systemd => systemd_is_content(&mut guest),
            Init::Sysvinit => sysvinit_is_content(&mut guest),
        }
        filesystems_agree(&mut guest, self.filesystem);
        network_is_up(&mut guest);
        console_has_a_getty(&mut guest, self.init);
        more(&mut guest);
        guest.run_ok("echo written by the domU >/root/file");
        guest.poweroff_and_wait(BOOT);
        eprintln!("== {name}: off after {:.1} s", guest.uptime().as_secs_f32());
        let keeps = |mount: Mount| {
            run("e2fsck", &["-fn".as_ref(), mount.part(2).as_os_str()]);
            let file = run_text(
                "debugfs",
                &["-R".as_ref(), "cat /root/file".as_ref(), mount.part(2).as_os_str()],
            );
            assert_eq!(file, "written by the domU");
            mount.unmount();
        };
        keeps(mount);
        keeps(Mount::of(&options, &[]));
        for file in fs::read_dir(&overlay).expect("what mount made") {
            run("qemu-img", &["check".as_ref(), file.expect("an entry").path().as_os_str()]);
        }
        untouched.iter().for_each(Untouched::check);
    }
}

/// `running` means that no unit has failed and no job waits.
fn systemd_is_content(guest: &mut Guest) {
    let state = guest.run("systemctl is-system-running").1;
    let failed = guest.run("systemctl --failed --no-legend --plain --full").1;
    let why = guest.run("journalctl -b --no-pager -o short-monotonic -p err").1;
    assert_eq!((&*state, &*failed), ("running", ""), "{why}");
    assert_eq!(guest.run_ok("systemctl list-jobs --no-legend"), "");
    // 90 s is systemd's patience with a device that does not come.
    let waits = guest.run("journalctl -b --no-pager | grep -i 'timed out'").1;
    assert_eq!(waits, "");
    let chain = guest.run_ok("systemd-analyze critical-chain --no-pager");
    assert!(!chain.contains("+1min"), "{chain}");
}

/// sysvinit has no list of what failed: its scripts print `[FAIL]` or `failed`.
fn sysvinit_is_content(guest: &mut Guest) {
    assert_eq!(guest.run_ok("cat /proc/1/comm"), "init");
    let level = guest.run_ok("runlevel");
    assert_eq!(level, "N 2");
    let said = guest.console();
    let bad = |line: &&str| {
        // The kernel's own messages depend on the host's load.
        let is_kernels = line.starts_with("[ ") && line.contains("] ") && !line.contains("[FAIL]");
        let line = line.to_lowercase();
        !is_kernels
            && (line.contains("[fail]") || line.contains("failed") || line.contains("error:"))
    };
    let failed: Vec<_> = said.lines().filter(bad).collect();
    assert!(failed.is_empty(), "{failed:#?}\n{said}");
}

/// Prints what a person would want to see.
fn report(guest: &mut Guest, init: Init) {
    let systemd = [
        "systemd-analyze time --no-pager",
        "systemd-analyze critical-chain --no-pager",
        "journalctl -b --no-pager -o short-monotonic -p warning",
    ];
    let sysvinit = ["dmesg --level=emerg,alert,crit,err,warn"];
    let common = ["cat /proc/cmdline /etc/fstab /proc/swaps", "ip -o addr; ip route"];
    let special = match init {
        Init::Systemd => &systemd[..],
        Init::Sysvinit => &sysvinit[..],
    };
    for line in special.iter().chain(&common) {
        let (code, said) = guest.run(line);
        eprintln!("-- {line} ({code})\n{said}");
    }
}

/// What is mounted is what fstab names, and the swap that fstab names is in use.
fn filesystems_agree(guest: &mut Guest, filesystem: &str) {
    assert_eq!(guest.run_ok("findmnt -rno SOURCE,FSTYPE /"), format!("/dev/vda2 {filesystem}"));
    assert_eq!(guest.run_ok("findmnt --fstab --evaluate -no SOURCE /"), "/dev/vda2");
    let options = guest.run_ok("findmnt -no OPTIONS /");
    assert!(options.starts_with("rw"), "{options}");
    let verdict = guest.run("findmnt --verify").1;
    assert!(verdict.contains("Success, no errors or warnings detected"), "{verdict}");
    let named = guest.run_ok("findmnt --fstab --evaluate -t swap -no SOURCE");
    let used = guest.run_ok("tail -n +2 /proc/swaps | cut -d' ' -f1");
    assert_eq!((&*named, &*used), ("/dev/vda1", "/dev/vda1"));
}

/// An address from QEMU's DHCP server, a default route, and an answer from the gateway.
fn network_is_up(guest: &mut Guest) {
    let address = guest.run_ok("ip -4 -o addr show scope global");
    assert!(address.contains("eth0 ") && address.contains(" 10.0.2.15/"), "{address}");
    let route = guest.run_ok("ip route show default");
    assert!(route.starts_with("default via 10.0.2.2 dev eth0"), "{route}");
    let names = guest.run_ok("grep ^nameserver /etc/resolv.conf");
    assert!(names.contains("10.0.2.3"), "{names}");
    guest.run_ok("ping -c 1 -W 20 10.0.2.2");
}

/// This login came through it; the next one must be possible too, and none may wait for a missing
/// console.
fn console_has_a_getty(guest: &mut Guest, init: Init) {
    assert_eq!(guest.run_ok("tty </dev/ttyS0"), "/dev/ttyS0");
    let (there, elsewhere) = match init {
        Init::Systemd => (
            "systemctl is-active serial-getty@ttyS0",
            "systemctl list-units --all --no-legend --plain 'serial-getty@*' | grep -v ttyS0",
        ),
        Init::Sysvinit => (
            "grep '^[^#].*:respawn:.*getty .*ttyS0' /etc/inittab",
            "grep '^[^#].*:respawn:.*[hx]vc' /etc/inittab",
        ),
    };
    guest.run_ok(there);
    assert_eq!(guest.run(elsewhere).1, "");
}

const BOOKWORM: Case = Case {
    name: "domu-bookworm",
    made_with: &["--dist", "bookworm"],
    filesystem: "ext4",
    init: Init::Systemd,
};

#[test]
#[ignore = "boots QEMU; makes a domU as root"]
fn trixie() {
    Case {
        name: "domu-trixie",
        made_with: &["--dist", "trixie"],
        filesystem: "ext4",
        init: Init::Systemd,
    }
    .check();
}

/// Kinds that only `scripts/test --matrix` boots.
mod matrix {
    use super::*;

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn bookworm() {
        BOOKWORM.check();
    }

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn bookworm_on_ext3() {
        Case {
            name: "domu-bookworm-ext3",
            made_with: &["--dist", "bookworm", "--fs", "ext3"],
            filesystem: "ext3",
            init: Init::Systemd,
        }
        .check();
    }

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn bullseye() {
        Case {
            name: "domu-bullseye",
            made_with: &["--dist", "bullseye"],
            filesystem: "ext4",
            init: Init::Systemd,
        }
        .check();
    }

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn bookworm_with_sysvinit() {
        Case {
            name: "domu-bookworm-sysvinit",
            made_with: &["--dist", "bookworm", "--role", "sysvinit"],
            filesystem: "ext4",
            init: Init::Sysvinit,
        }
        .check();
    }

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn copied_while_it_was_mounted() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let domu = dirty(dir.path(), "data=ordered");
        BOOKWORM.check_domu(&domu, |guest| {
            assert_eq!(guest.run_ok("hostname"), "journaled");
            assert_eq!(guest.run_ok("findmnt -no FSTYPE /data"), "tmpfs");
            guest.run_ok(&format!(
                "for i in $(seq {BUSY_FILES}); do test \"$(cat /srv/busy/$i)\" = $i || exit; done"
            ));
        });
    }
}

/// The latest changes are in the journal only, and the copy was made while a program was
/// writing.
fn change(root: &Path) {
    write_durably(&root.join("etc/hostname"), "journaled\n");
    fs::create_dir(root.join("data")).expect("our own copy");
    let fstab = root.join("etc/fstab");
    let text = fs::read_to_string(&fstab).expect("readable");
    write_durably(&fstab, &format!("{text}tmpfs /data tmpfs size=1m 0 0\n"));
}

/// What a file of an ext filesystem holds if its journal is left alone.
fn without_journal(disk: &Path, path: &str) -> String {
    run_text("debugfs", &["-R", &format!("cat {path}"), &disk.to_string_lossy()])
}

/// A domU with a dirty journal, made from the bookworm one.
fn dirty(dir: &Path, options: &str) -> Domu {
    // A sync(2) by any program on the host during the copy empties the journal.
    for _ in 0..5 {
        let domu = BOOKWORM.domu().copied_while_mounted(dir, options, change);
        if without_journal(&domu.disk, "/etc/hostname") == BOOKWORM.name
            && !without_journal(&domu.disk, "/etc/fstab").contains("tmpfs")
        {
            return domu;
        }
    }
    panic!("the changes were never in the journal only");
}

/// File contents too are in the journal, which only `data=journal` does.
#[test]
#[ignore = "makes a domU as root"]
fn files_that_are_in_the_journal_only() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let domu = dirty(dir.path(), "data=journal");
    let untouched = [&domu.disk, &domu.config].map(Untouched::remember);
    let mount = Mount::of(&["--config", &domu.config.to_string_lossy()], &[]);
    run("e2fsck", &["-fn".as_ref(), mount.part(2).as_os_str()]);
    assert_eq!(without_journal(&mount.part(2), "/etc/hostname"), "journaled");
    let fstab = without_journal(&mount.part(2), "/etc/fstab");
    assert!(fstab.ends_with("\ntmpfs /data tmpfs size=1m 0 0"), "{fstab}");
    assert!(!fstab.contains("xvda") && fstab.matches("\nUUID=").count() == 2, "{fstab}");
    for n in 1..=BUSY_FILES {
        let file = without_journal(&mount.part(2), &format!("/srv/busy/{n}"));
        assert_eq!(file, n.to_string());
    }
    mount.unmount();
    untouched.iter().for_each(Untouched::check);
}
