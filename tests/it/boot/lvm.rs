//! The layout of CentOS, rebuilt with Debian: /boot on xvda1, and a physical volume with root and swap on
//! xvda2.

/// Kinds that only `scripts/test --matrix` boots.
mod matrix {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use crate::common::console::{Disk, Guest};
    use crate::common::guests::{domu_with, split};
    use crate::common::hash::Untouched;
    use crate::common::lvm::Group;
    use crate::common::mount::Mount;
    use crate::common::process::{output, run, text};
    use crate::common::tiny::make_ext4;

    const BOOT: Duration = Duration::from_secs(400);
    const MIB: u64 = 1 << 20;

    /// A guest with a separate /boot, whose root and swap are logical volumes.
    struct Centos {
        group: Group,
        config: PathBuf,
        untouched: Vec<Untouched>,
    }

    /// Replaces files of an ext4 image.
    fn put(image: &Path, dir: &Path, files: &[(&str, String)]) {
        let mut commands = String::new();
        for (i, (path, bytes)) in files.iter().enumerate() {
            let file = dir.join(format!("put{i}"));
            fs::write(&file, bytes).expect("our own file");
            commands += &format!("rm {path}\nwrite {} {path}\n", file.display());
            commands += &format!("set_inode_field {path} mode 0100644\n");
            commands += &format!("set_inode_field {path} uid 0\nset_inode_field {path} gid 0\n");
        }
        let script = dir.join("put");
        fs::write(&script, commands).expect("our own file");
        let args = ["-w".as_ref(), "-f".as_ref(), script.as_os_str(), image.as_os_str()];
        run("debugfs", &args);
        run("e2fsck", &["-fn".as_ref(), image.as_os_str()]);
    }

    fn cat(image: &Path, path: &str) -> String {
        text(&output("debugfs", &["-R", &format!("cat {path}"), &image.to_string_lossy()]).stdout)
    }

    impl Centos {
        fn new() -> Option<Self> {
            let whole = domu_with("domu-bookworm-lvm", &["--dist", "bookworm", "--role", "lvm"]);
            let images = split(&whole, "split-lvm");
            let mut group = Group::new("vg", 4 * MIB, &[(2304 * MIB, &[])])?;
            let boot = group.file("boot.img");
            let root = group.file("root.img");
            for (image, copy) in [("boot.img", &boot), ("root.img", &root)] {
                let args = ["--sparse=always".into(), images.join(image), copy.clone()];
                run("cp", &args);
            }
            let menu = cat(&boot, "/grub/menu.lst");
            assert!(menu.contains("root=/dev/xvda3"), "{menu}");
            let menu = menu.replace("root=/dev/xvda3", "root=/dev/mapper/vg-root");
            put(&boot, group.home(), &[("/grub/menu.lst", menu)]);
            let fstab = "proc /proc proc defaults 0 0\n\
                         /dev/mapper/vg-root / ext4 noatime,errors=remount-ro 0 1\n\
                         /dev/xvda1 /boot ext4 defaults 0 2\n\
                         /dev/mapper/vg-swap none swap sw 0 0\n";
            put(&root, group.home(), &[("/etc/fstab", fstab.to_owned())]);
            let swap = group.file("swap.img");
            make_ext4(&swap, 128 * MIB, None);
            run("mkswap", &["-q".as_ref(), swap.as_os_str()]);
            group.create_from("swap", 32, &swap);
            group.create_from("root", 512, &root);
            group.detach();
            for file in [&root, &swap] {
                fs::remove_file(file).expect("our own file");
            }
            let pv = group.part(0);
            let config = group.file("centos.cfg");
            let text = format!(
                "bootloader = 'pygrub'\nmemory = 512\nname = 'centos'\n\
                 vif = [ 'mac=00:16:3E:99:62:75' ]\n\
                 disk = ['{},,xvda1', '{},,xvda2']\n",
                boot.display(),
                pv.display()
            );
            fs::write(&config, text).expect("our own file");
            let untouched = [&boot, &pv].map(Untouched::remember).into();
            Some(Self { group, config, untouched })
        }
    }

    fn start(disk: &Path) -> Guest {
        let mut guest = Guest::builder()
            .disk(Disk::new(disk))
            .memory(512)
            .args(&["-nic", "user,model=virtio-net-pci"])
            .start();
        guest.login("root", "root", BOOT);
        let state = guest.try_run("systemctl is-system-running --wait", BOOT).expect("an answer").1;
        let failed = guest.run_ok("systemctl --failed --no-legend --plain");
        eprintln!("{state} after {:?}, failed units: {failed:?}", guest.uptime());
        assert_eq!((&*state, &*failed), ("running", ""));
        assert_eq!(guest.run_ok("findmnt -rno SOURCE,FSTYPE /"), "/dev/mapper/vg-root ext4");
        assert_eq!(guest.run_ok("findmnt -rno SOURCE /boot"), "/dev/vda1");
        let swap = guest.run_ok("swapon --show=NAME --noheadings");
        assert_eq!(
            guest.run_ok(&format!("readlink -f {swap}")),
            guest.run_ok("readlink -f /dev/vg/swap")
        );
        guest
    }

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn the_layout_of_centos() {
        let Some(centos) = Centos::new() else { return };
        let config = centos.config.to_str().expect("UTF-8");
        let overlay = centos.group.file("overlay.qcow2");
        let options = ["--config", config, "--overlay", overlay.to_str().expect("UTF-8")];
        let mount = Mount::of(&options, &[]);
        let printed = mount.printed();
        eprintln!("{printed}");
        assert!(printed.contains("root=/dev/mapper/vg-root"), "{printed}");
        assert!(printed.contains("adapted: /etc/fstab: /dev/xvda1 became UUID="), "{printed}");
        let mut guest = start(&mount.disk());
        // The guest grows its root while it runs.
        guest.run_ok("lvextend -q -r -l +8 vg/root && echo grown >/root/file && sync");
        guest.poweroff_and_wait(BOOT);
        mount.unmount();

        let mount = Mount::of(&options, &[]);
        assert!(!mount.printed().contains("adapted: "), "{}", mount.printed());
        let root = mount.dir().join("vg-root.raw");
        assert_eq!(fs::metadata(&root).expect("it is shown").len(), 520 * 4 * MIB);
        run("e2fsck", &["-fn".as_ref(), root.as_os_str()]);
        assert_eq!(cat(&root, "/root/file"), "grown\n");
        let mut guest = start(&mount.disk());
        guest.poweroff_and_wait(BOOT);
        mount.unmount();
        centos.untouched.iter().for_each(Untouched::check);
    }

    /// The host's GRUB finds the menu on /boot; the kernel's initrd finds the volumes.
    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn the_layout_of_centos_with_grub() {
        let Some(centos) = Centos::new() else { return };
        let config = centos.config.to_str().expect("UTF-8");
        let mount = Mount::of(&["--config", config, "--bootloader", "grub"], &[]);
        let mut guest = start(&mount.disk());
        guest.poweroff_and_wait(BOOT);
        mount.unmount();
        centos.untouched.iter().for_each(Untouched::check);
    }
}
