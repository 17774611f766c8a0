//! Clones of one golden image.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::console::{Disk, Guest};
use crate::common::field::blkid;
use crate::common::guests::domu;
use crate::common::hash::Untouched;
use crate::common::mount::Mount;
use crate::common::process::{run, run_text};

/// About 30 s on an idle machine under TCG; here two share it.
const BOOT: Duration = Duration::from_secs(600);

const USER_DATA: &str = "#cloud-config\n";

/// What a clone says of itself.
#[derive(Debug)]
struct Said {
    machine_id: String,
    uuid: String,
    host_key: String,
}

fn start(mount: &Mount) -> Guest {
    let guest = Guest::builder().memory(512);
    let guest = guest.disk(Disk::new(mount.disk()));
    // The seed is read-only, and QEMU wants to be able to write.
    guest
        .disk(Disk::new(mount.dir().join("cidata.raw")).snapshot())
        .args(&["-nic", "user,model=virtio-net-pci"])
        .start()
}

fn look(guest: &mut Guest, name: &str) -> Said {
    let (_, state) =
        guest.try_run("systemctl is-system-running --wait", BOOT).unwrap_or_else(|e| panic!("{e}"));
    eprintln!("{name}: {state} after {:.1} s", guest.uptime().as_secs_f32());
    let failed = guest.run_ok("systemctl --failed --no-legend --plain");
    assert_eq!((&*state, &*failed), ("running", ""));
    assert_eq!(guest.run_ok("hostname"), name);
    let address = guest.run_ok("ip -4 -o addr show eth0");
    assert!(address.contains(" 10.0.2.15/"), "{address}");
    let uuid = guest.run_ok("findmnt -rno UUID /");
    assert_eq!(guest.run_ok("blkid -o value -s UUID /dev/vda2"), uuid);
    assert_eq!(guest.run_ok("grep -c 'UUID='$(findmnt -rno UUID /)' / ' /etc/fstab"), "1");
    // The script ran once, as root, and what it said was kept.
    assert_eq!(guest.run_ok("cat /root/first"), format!("{name} 0"));
    assert_eq!(guest.run_ok("ls /etc/synthdisk/first-boot/pending | wc -l"), "0");
    assert_eq!(guest.run_ok("cat /etc/synthdisk/first-boot/ran/*.exit-code"), "0");
    assert_eq!(guest.run_ok("cat /srv/in/note"), "from the host");
    guest.run_ok("mkdir -p /tmp/seed && mount -o ro /dev/disk/by-label/cidata /tmp/seed");
    assert_eq!(guest.run_ok("cat /tmp/seed/user-data"), USER_DATA.trim_end());
    let meta = guest.run_ok("cat /tmp/seed/meta-data");
    assert!(meta.contains(&format!("local-hostname: \"{name}\"")), "{meta}");
    guest.run_ok("umount /tmp/seed");
    assert_eq!(guest.run_ok("systemctl is-active ssh"), "active");
    Said {
        machine_id: guest.run_ok("cat /etc/machine-id"),
        uuid,
        host_key: guest.run_ok("ssh-keygen -lf /etc/ssh/ssh_host_rsa_key.pub"),
    }
}

/// Boot clones called `names` at the same time; if there are several, the first of them twice.
fn boot_clones(names: &[&str]) {
    let domu = domu("bookworm");
    let untouched = [&domu.disk, &domu.swap, &domu.config].map(Untouched::remember);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str, text: &str| {
        fs::create_dir_all(dir.path().join("in")).expect("our own directory");
        let path = dir.path().join(name);
        fs::write(&path, text).expect("our own file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let script = file("first.sh", "#!/bin/sh\necho \"$(hostname) $(id -u)\" >>/root/first\n");
    let user_data = file("user-data", USER_DATA);
    file("in/note", "from the host\n");
    let copy = format!("{}:/srv", dir.path().join("in").display());
    let mount = |name: &str| {
        let overlay = dir.path().join(format!("{name}.qcow2"));
        let options = [
            "--config",
            domu.config.to_str().expect("UTF-8"),
            "--overlay",
            overlay.to_str().expect("UTF-8"),
            "--hostname",
            name,
            "--machine-id=reset",
            "--root-uuid=new",
            "--run-first",
            &script,
            "--copy-in",
            &copy,
            "--cloud-init",
            &user_data,
        ];
        Mount::of(&options, &[])
    };
    let mounts: Vec<_> = names.iter().map(|name| mount(name)).collect();
    eprintln!("{}", mounts[0].printed());
    let mut guests: Vec<_> = mounts.iter().map(start).collect();
    let mut said = Vec::new();
    for (guest, name) in guests.iter_mut().zip(names) {
        guest.login("root", "root", BOOT);
        eprintln!("{name}: shell after {:.1} s", guest.uptime().as_secs_f32());
        said.push(look(guest, name));
    }
    let image = |request: &str| run_text("debugfs", &["-R", request, &domu.disk.to_string_lossy()]);
    let golden_id = image("cat /etc/machine-id");
    let key = dir.path().join("golden.pub");
    image(&format!("dump /etc/ssh/ssh_host_rsa_key.pub {}", key.display()));
    let golden_key = run_text("ssh-keygen", &["-lf".as_ref(), key.as_os_str()]);
    for one in &said {
        assert_eq!(one.machine_id.len(), 32, "{one:?}");
        assert_ne!(one.machine_id, golden_id);
        assert_ne!(one.uuid, blkid(&domu.disk, "UUID"));
        assert_ne!(one.host_key, golden_key);
    }
    if let [left, right] = &said[..] {
        assert_ne!(left.machine_id, right.machine_id);
        assert_ne!(left.uuid, right.uuid);
        assert_ne!(left.host_key, right.host_key);
    }

    if names.len() > 1 {
        // After a reboot all is as it was, and the script has not run again.
        let first = &mut guests[0];
        first.reboot(BOOT);
        first.login("root", "root", BOOT);
        let again = look(first, names[0]);
        assert_eq!(again.machine_id, said[0].machine_id);
        assert_eq!(again.host_key, said[0].host_key);
    }
    guests.iter_mut().for_each(|guest| guest.poweroff_and_wait(BOOT));
    for mount in mounts {
        run("e2fsck", &["-fn".as_ref(), mount.part(2).as_os_str()]);
        mount.unmount();
    }

    // The next mount with the same options finds a clone that is what it should be.
    let mounted = mount(names[0]);
    let printed = mounted.printed();
    assert!(!printed.contains("adapted: "), "{printed}");
    let cat = |path: &str| {
        let part = mounted.part(2);
        run_text("debugfs", &["-R", &format!("cat {path}"), &part.to_string_lossy()])
    };
    assert_eq!(cat("/etc/machine-id"), said[0].machine_id);
    mounted.unmount();
    assert!(Path::new(&domu.disk).exists());
    untouched.iter().for_each(Untouched::check);
}

#[test]
#[ignore = "boots QEMU; makes a domU as root"]
fn a_clone() {
    boot_clones(&["left"]);
}

/// Kinds that only `scripts/test --matrix` boots.
mod matrix {
    use super::*;

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn two_clones_at_the_same_time() {
        boot_clones(&["left", "right"]);
    }
}
