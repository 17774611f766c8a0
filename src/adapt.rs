//! The edits that make a Xen guest run well on KVM.
//!
//! A [`Step`] inspects files of the guest and drafts changes; `edit` stores them. Calls `edit` and
//! `guest`.

mod devices;
mod legacy_settings;
mod selection;
mod step;
mod steps;

pub use devices::{Device, Devices};
pub use legacy_settings::LegacySettings;
pub use selection::Selection;
pub use step::Step;
pub use steps::STEPS;
pub use steps::initrd::DRIVERS;
pub use steps::network::NETWORK;
pub use steps::resume::RESUME;

use crate::Result;
use crate::edit::{Draft, Edit};
use crate::fs::GuestFs;

/// The edits that the guest with this root filesystem needs, limited to the steps in `selection`,
/// in the order in which they must be made.
///
/// # Errors
/// Fails if the filesystem cannot be read. A file that does not exist, is not text or is too large
/// is skipped.
pub fn propose(root: &dyn GuestFs, devices: &Devices, selection: &Selection) -> Result<Vec<Edit>> {
    let mut draft = Draft::new(root);
    draft_steps(&mut draft, devices, selection)?;
    Ok(draft.finish())
}

/// Run the steps in `selection`.
///
/// # Errors
/// As [`propose`].
pub fn draft_steps(draft: &mut Draft, devices: &Devices, selection: &Selection) -> Result<()> {
    for step in STEPS.iter().filter(|step| selection.has(step.name)) {
        draft.begin(step.name);
        (step.draft)(draft, devices)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::steps::test::applied;
    use super::*;
    use crate::fs::MemFs;

    #[test]
    fn steps_propose_nothing_twice() {
        let devices = Devices::of(&[("a", 2, "UUID=r", false), ("a", 1, "UUID=s", true)], true);
        let fstab = "/dev/xvda1 none swap sw 0 0\n/dev/xvda2 / ext4 defaults 0 1\n";
        let inittab = "id:2:initdefault:\n1:2345:respawn:/sbin/getty 38400 hvc0\n";
        let fs = || MemFs::new().file("/etc/fstab", fstab).file("/etc/inittab", inittab);
        let edits = propose(&fs(), &devices, &Selection::auto()).unwrap();
        assert_eq!(edits.len(), 2);
        let again = applied(fs(), &edits);
        assert_eq!(propose(&again, &devices, &Selection::auto()).unwrap(), []);
        let only = Selection::parse("inittab").unwrap();
        let edits = propose(&fs(), &devices, &only).unwrap();
        assert_eq!(edits.iter().map(|e| e.step).collect::<Vec<_>>(), ["inittab"]);
    }

    /// A guest with work for every step that edits files; no real guest has all of it.
    fn rich() -> MemFs {
        let wants = "/etc/systemd/system/multi-user.target.wants";
        MemFs::new()
            .file(
                "/etc/fstab",
                "proc /proc proc defaults 0 0\n/dev/xvda1 none swap sw 0 0\n\
                 /dev/xvda2 / ext4 noatime,errors=remount-ro 0 1\n\
                 /dev/xvdb1 /srv ext4 defaults 0 2\n/dev/mapper/vault /vault ext4 defaults 0 2\n\
                 xenfs /proc/xen xenfs defaults 0 0\n",
            )
            .file("/etc/systemd/system/old.mount", "[Mount]\nWhat=/dev/xvda2\nWhere=/old\n")
            .file("/etc/crypttab", "vault /dev/xvdc1 none luks\n")
            .file("/etc/initramfs-tools/conf.d/resume", "RESUME=/dev/xvda1\n")
            .file("/etc/default/grub", "GRUB_CMDLINE_LINUX=\"console=hvc0\"\n")
            .file("/etc/initramfs-tools/initramfs.conf", "MODULES=most\nBUSYBOX=auto\n")
            .file("/etc/inittab", "id:2:initdefault:\n1:2345:respawn:/sbin/getty 38400 hvc0\n")
            .file("/etc/init/hvc0.conf", "respawn\nexec /sbin/getty -8 38400 hvc0\n")
            .symlink("/etc/systemd/system/getty.target.wants/serial-getty@hvc0.service", "x")
            .symlink("/etc/runlevels/default/agetty.hvc0", "/etc/init.d/agetty.hvc0")
            .symlink("/etc/init.d/agetty.hvc0", "agetty")
            .file("/etc/init.d/agetty", "#!/sbin/openrc-run\n")
            .file("/etc/securetty", "tty1\nhvc0\nxvc0")
            .file("/etc/network/interfaces", "auto eth0 enX1\niface eth0 inet dhcp\n")
            .file("/usr/lib/systemd/systemd-udevd", "")
            .file(
                "/etc/udev/rules.d/70-persistent-net.rules",
                "SUBSYSTEM==\"net\", ATTR{address}==\"00:16:3e:00:00:01\", NAME=\"eth0\"\n",
            )
            .file("/etc/sysconfig/network-scripts/ifcfg-eth0", "HWADDR=00:16:3E:00:00:01\n")
            .file(
                "/etc/netplan/50-cloud-init.yaml",
                "network:\n  ethernets:\n    eth0:\n      match:\n        macaddress: 00:16:3e:00:00:01\n",
            )
            .file("/etc/systemd/network/a.network", "[Match]\nMACAddress=00:16:3e:00:00:01\n")
            .file("/etc/modprobe.conf", "alias eth0 xennet\nalias scsi_hostadapter xenblk\n")
            .file("/etc/modprobe.d/virtio.conf", "blacklist virtio_blk\n")
            .file("/etc/modules", "loop\nxen-evtchn\n")
            .file("/etc/sysctl.conf", "xen.independent_wallclock = 1\n")
            .file("/lib/systemd/system/xe-daemon.service", "[Service]\nExecStart=/usr/sbin/xe-daemon\n")
            .symlink(&format!("{wants}/xe-daemon.service"), "/lib/systemd/system/xe-daemon.service")
            .symlink("/etc/rc2.d/S20xe-daemon", "../init.d/xe-daemon")
            .file("/usr/bin/growpart", "#!/bin/sh\n")
            .file("/etc/hosts", "127.0.0.1 localhost\n")
    }

    #[test]
    fn all_steps_together() {
        let list = [("a", 2, "UUID=r", false), ("a", 1, "UUID=s", true)];
        let devices = Devices::of(&list, true).and_no_others().with_tail();
        let edits = propose(&rich(), &devices, &Selection::auto()).unwrap();
        // The initrd step and what `network` does for the command line edit no files.
        let idle = |name: &str| !edits.iter().any(|e| e.step == name);
        let idle: Vec<&str> = STEPS.iter().map(|s| s.name).filter(|n| idle(n)).collect();
        assert_eq!(idle, [DRIVERS]);
        let mut paths: Vec<&str> = edits.iter().map(|e| e.path.as_str()).collect();
        paths.dedup();
        let mut distinct = paths.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(paths.len(), distinct.len(), "one edit each: {paths:?}");
        assert!(edits.iter().all(|e| !e.why.is_empty() && e.why.len() < 300), "{edits:?}");
        let again = applied(rich(), &edits);
        assert_eq!(propose(&again, &devices, &Selection::auto()).unwrap(), []);
        // Each step on its own makes the same edits.
        for step in STEPS {
            let alone = propose(&rich(), &devices, &Selection::parse(step.name).unwrap()).unwrap();
            let of_step: Vec<_> = edits.iter().filter(|e| e.step == step.name).cloned().collect();
            assert_eq!(alone, of_step, "{}", step.name);
        }
    }

    /// Settings that are correct or unrelated to Xen stay.
    #[test]
    fn a_guest_at_home_on_kvm_is_left_alone() {
        let fs = MemFs::new()
            .file(
                "/etc/fstab",
                "# /etc/fstab\nUUID=r / ext4 errors=remount-ro 0 1\nUUID=s none swap sw 0 0\n\
                 /swapfile none swap sw 0 0\n/srv /mnt none bind 0 0\nLABEL=data /data xfs nofail 0 0\n",
            )
            .file("/etc/crypttab", "# <target name> <source device> <key file> <options>\n")
            .file("/etc/initramfs-tools/conf.d/resume", "RESUME=UUID=s\n")
            .file("/etc/securetty", "tty1\nttyS0\nhvc0\n")
            .symlink("/etc/systemd/system/getty.target.wants/getty@tty1.service", "x")
            .file("/etc/network/interfaces", "auto ens3\niface ens3 inet dhcp\n")
            .file("/usr/lib/systemd/systemd-udevd", "")
            .file("/etc/udev/rules.d/99-local.rules", "ATTR{address}==\"52:54:00:00:00:01\"\n")
            .file("/etc/modprobe.d/local.conf", "blacklist pcspkr\noptions virtio_net csum=0\n")
            .file("/etc/modules", "# /etc/modules\nvirtio_net\n")
            .file("/etc/sysctl.conf", "vm.swappiness=10\n#xen.independent_wallclock=1\n")
            .file("/lib/systemd/system/xe-daemon.service", "[Service]\n")
            .symlink("/etc/systemd/system/multi-user.target.wants/qemu-guest-agent.service", "x");
        let list = [("a", 2, "UUID=r", false), ("a", 1, "UUID=s", true)];
        let devices = Devices::of(&list, true).with_label("a", 2, "data").and_no_others();
        assert_eq!(propose(&fs, &devices, &Selection::auto()).unwrap(), []);
    }
}
