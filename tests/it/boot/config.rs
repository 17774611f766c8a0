//! Real domUs, booted from the configs that xen-tools wrote for them and from such as the field has:
//! the guest must find what its config promised.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::console::{Disk, Guest};
use crate::common::field::blkid;
use crate::common::guests::{domu, extract_kernel, split_domu};
use crate::common::hash::Untouched;
use crate::common::mount::Mount;

/// About 30 s on an idle machine under TCG.
const BOOT: Duration = Duration::from_secs(300);

/// Boots all disks of the mount and logs in.
fn boot(mount: &Mount) -> Guest {
    let mut guest = Guest::builder().memory(512);
    let mut disks = vec![mount.disk()];
    let others = fs::read_dir(mount.dir()).expect("our own mount").flatten().map(|e| e.path());
    let is_disk = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("disk-") && !name.contains("part")
    };
    let mut others: Vec<_> = others.filter(is_disk).collect();
    others.sort();
    disks.append(&mut others);
    for disk in disks {
        guest = guest.disk(Disk::new(disk));
    }
    let mut guest = guest.args(&["-nic", "user,model=virtio-net-pci"]).start();
    guest.login("root", "root", BOOT);
    eprintln!("shell after {:.1} s", guest.uptime().as_secs_f32());
    guest
}

/// systemd has nothing to complain of, and the network is up.
fn is_whole(guest: &mut Guest) {
    let state = guest.try_run("systemctl is-system-running --wait", BOOT);
    let (_, state) = state.unwrap_or_else(|e| panic!("{e}"));
    if let Ok((0, times)) = guest.try_run("systemd-analyze | head -n 1", BOOT) {
        eprintln!("{times}");
    }
    eprintln!("{state} after {:.1} s", guest.uptime().as_secs_f32());
    let failed = guest.run_ok("systemctl --failed --no-legend --plain");
    assert_eq!((&*state, &*failed), ("running", ""));
    let address = guest.run_ok("ip -4 -o addr show eth0");
    assert!(address.contains(" 10.0.2.15/"), "{address}");
}

/// The device of what the guest has mounted on `dir`, and its filesystem.
fn mounted(guest: &mut Guest, dir: &str) -> String {
    let line = guest.run_ok(&format!("findmnt -rno SOURCE,FSTYPE {dir}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn swaps(guest: &mut Guest) -> String {
    let list = guest.run_ok("swapon --show=NAME,TYPE,SIZE --noheadings --raw --bytes");
    list.trim().to_owned()
}

/// `NAME SIZE FSTYPE MOUNTPOINT` of every partition.
fn partitions(guest: &mut Guest) -> Vec<String> {
    let list = guest.run_ok("lsblk -brno NAME,SIZE,FSTYPE,MOUNTPOINT,TYPE | grep ' part$'");
    list.lines().map(|l| l.trim().trim_end_matches(" part").to_owned()).collect()
}

fn line(name: &str, image: &Path, what: &str) -> String {
    format!("{name} {} {what}", fs::metadata(image).expect("it is there").len())
}

fn config_mount(config: &Path, options: &[&str]) -> Mount {
    let mut all = vec!["--config", config.to_str().expect("UTF-8")];
    all.extend(options);
    Mount::of(&all, &[])
}

/// A config that gives each device its image; the root is listed first, as pygrub would want /boot.
fn write_config(dir: &Path, disks: &[(&str, &Path)]) -> PathBuf {
    let specs: Vec<_> =
        disks.iter().map(|(vdev, image)| format!("'file:{},{vdev},w'", image.display())).collect();
    let text = format!(
        "bootloader = 'pygrub'\nname = 'split'\nmemory = 512\nroot = '/dev/xvda3 ro'\ndisk = [\n  \
         {},\n]\nvif = ['']\n",
        specs.join(",\n  ")
    );
    let config = dir.join("split.cfg");
    fs::write(&config, text).expect("our own file");
    config
}

/// Five partitions with a gap in their numbers, and two disks more; kept in overlays.
#[test]
#[ignore = "boots QEMU; makes a domU as root"]
fn five_partitions_and_three_disks() {
    let (images, swap) = split_domu();
    let image = |name: &str| images.join(format!("{name}.img"));
    let [root, boot_image, home] = ["root", "boot", "home"].map(image);
    let [var, srv, data] = ["var", "srv", "data"].map(image);
    let disks = [
        ("xvda3", &*root),
        ("xvda1", &*boot_image),
        ("xvda2", &*swap),
        ("xvda4", &*home),
        ("xvda6", &*var),
        ("xvdb1", &*srv),
        ("xvdc", &*data),
    ];
    let untouched = disks.map(|(_, path)| Untouched::remember(path));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = write_config(dir.path(), &disks);
    let overlays = dir.path().join("overlays");
    let options = ["--overlay-dir", overlays.to_str().expect("UTF-8")];
    let mount = config_mount(&config, &options);
    let verdict =
        crate::common::process::run_text("sgdisk", &["-v".as_ref(), mount.disk().as_os_str()]);
    assert!(verdict.contains("No problems found"), "{verdict}");
    let mut guest = boot(&mount);
    assert_eq!(mounted(&mut guest, "/"), "/dev/vda3 ext4");
    assert!(swaps(&mut guest).starts_with("/dev/vda2 partition "));
    let expected = [
        line("vda1", &boot_image, "ext4 /boot"),
        line("vda2", &swap, "swap [SWAP]"),
        line("vda3", &root, "ext4 /"),
        line("vda4", &home, "ext4 /home"),
        line("vda6", &var, "ext4 /var"),
        // The BIOS boot partition, for the boot loader.
        "vda7 1048576  ".to_owned(),
        line("vdb1", &srv, "ext4 /srv"),
        line("vdc1", &data, "ext4 /data"),
    ];
    assert_eq!(partitions(&mut guest), expected);
    assert_eq!(guest.run_ok("blkid -o value -s PTTYPE /dev/vda"), "gpt");
    assert_eq!(guest.run_ok("cat /srv/note /data/note"), "this is srv\nthis is data");
    is_whole(&mut guest);
    guest.run_ok("for d in /home /var /srv /data; do echo $d >$d/new || exit; done; sync");
    guest.poweroff_and_wait(BOOT);
    mount.unmount();

    let mount = config_mount(&config, &options);
    for (file, text) in [
        ("part4.raw", "/home"),
        ("part6.raw", "/var"),
        ("disk-b-part1.raw", "/srv"),
        ("disk-c-part1.raw", "/data"),
    ] {
        let part = mount.dir().join(file);
        crate::common::process::run("e2fsck", &["-fn".as_ref(), part.as_os_str()]);
        let part = part.to_string_lossy();
        assert_eq!(crate::common::process::run_text("debugfs", &["-R", "cat /new", &part]), text);
    }
    mount.unmount();
    for letter in ["a", "b", "c"] {
        let overlay = overlays.join(format!("split-{letter}.qcow2"));
        crate::common::process::run("qemu-img", &["check".as_ref(), overlay.as_os_str()]);
    }
    untouched.iter().for_each(Untouched::check);
}

/// Kinds that only `scripts/test --matrix` boots.
mod matrix {
    use super::*;

    /// `kernel=` and `ramdisk=` name files of the dom0.
    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn a_kernel_of_the_dom0() {
        let domu = domu("bookworm");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (kernel, ramdisk) = extract_kernel(&domu.disk, dir.path());
        let untouched = [&domu.disk, &domu.swap, &kernel, &ramdisk].map(Untouched::remember);
        let text = fs::read_to_string(&domu.config).expect("readable");
        let text =
            text.replace("bootloader = 'pygrub'", "kernel = 'vmlinuz'\nramdisk = 'initrd.img'");
        let config = dir.path().join("domu.cfg");
        fs::write(&config, text + "extra = 'of=thedom0 console=hvc0'\n").expect("our own file");

        let mount = config_mount(&config, &[]);
        let printed = mount.printed();
        assert!(printed.contains(&format!("initrd:  {}\n", ramdisk.display())), "{printed}");
        assert!(!printed.contains("no modules"), "{printed}");
        let mut guest = boot(&mount);
        let cmdline = guest.run_ok("cat /proc/cmdline");
        let expected = format!("root=UUID={} ro of=thedom0 ", blkid(&domu.disk, "UUID"));
        assert!(cmdline.starts_with(&expected) && !cmdline.contains("hvc0"), "{cmdline}");
        assert_eq!(mounted(&mut guest, "/"), "/dev/vda2 ext4");
        assert!(swaps(&mut guest).starts_with("/dev/vda1 partition "));
        is_whole(&mut guest);
        guest.poweroff_and_wait(BOOT);
        mount.unmount();
        untouched.iter().for_each(Untouched::check);
    }

    /// Three devices of its fstab are not in its config: nothing waits for them for long.
    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn a_separate_boot_and_home() {
        let (images, swap) = split_domu();
        let image = |name: &str| images.join(format!("{name}.img"));
        let (root, boot_image, home) = (image("root"), image("boot"), image("home"));
        let disks =
            [("xvda3", &*root), ("xvda1", &*boot_image), ("xvda2", &*swap), ("xvda4", &*home)];
        let untouched = disks.map(|(_, path)| Untouched::remember(path));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mount = config_mount(&write_config(dir.path(), &disks), &[]);
        let mut guest = boot(&mount);
        assert_eq!(mounted(&mut guest, "/"), "/dev/vda3 ext4");
        assert!(swaps(&mut guest).starts_with("/dev/vda2 partition "));
        let expected = [
            line("vda1", &boot_image, "ext4 /boot"),
            line("vda2", &swap, "swap [SWAP]"),
            line("vda3", &root, "ext4 /"),
            line("vda4", &home, "ext4 /home"),
        ];
        assert_eq!(partitions(&mut guest), expected);
        assert_eq!(guest.run_ok("cat /home/note"), "this is home");
        assert_eq!(guest.run_ok("blkid -o value -s PTTYPE /dev/vda"), "dos");
        let gone = guest.run_ok("grep -c nofail,x-systemd.device-timeout=5s /etc/fstab");
        assert_eq!(gone, "3");
        is_whole(&mut guest);
        // systemd's own patience is 90 s.
        let start = guest
            .run_ok("systemctl show -p UserspaceTimestampMonotonic -p FinishTimestampMonotonic");
        eprintln!("{start}");
        guest.run_ok("echo new >/home/new && ls /boot/vmlinuz-* && sync");
        guest.poweroff_and_wait(BOOT);
        let cat = ["-R", "cat /new", &mount.part(4).to_string_lossy()].map(str::to_owned);
        assert_eq!(crate::common::process::run_text("debugfs", &cat), "new");
        mount.unmount();
        untouched.iter().for_each(Untouched::check);
    }
}
