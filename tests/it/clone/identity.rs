//! Clones of one golden image: each option edits the guest in the overlay, once, and the same options
//! give the same bytes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::common::field::{FSTAB, Field, ROOT, blkid, mount};
use crate::common::mount::Mount;
use crate::common::process::{run, run_text};
use crate::common::tiny::{fake_kernel, initrd, menu, noise};

const HASH: &str = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/";
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@here";
const GIVEN: &str = "11111111-2222-4333-8444-555555555555";

/// A guest with systemd that has been used, as golden images have, on `kind` of filesystem.
fn golden(field: &Field, kind: &str) -> String {
    let (kernel, initrd) = (fake_kernel(1), initrd(101));
    let menu = menu("1").replace("root=/dev/xvda2", &format!("root=UUID={ROOT}"));
    let fstab = FSTAB.replace("/dev/xvda2 /", &format!("UUID={ROOT} /"));
    let shadow = "root:$1$a$old:19000:0:99999:7:::\nmail:*:19000:0:99999:7:::\n";
    let passwd = "root:x:0:0:root:/root:/bin/bash\nme:x:1000:1001::/home/me:/bin/sh\n";
    field.ext4_with(
        "disk.img",
        ROOT,
        24 << 20,
        &["-t", kind, "-b", "4096"],
        &[
            ("boot/vmlinuz-1", &kernel),
            ("boot/initrd.img-1", &initrd),
            ("boot/grub/menu.lst", menu.as_bytes()),
            ("etc/fstab", fstab.as_bytes()),
            ("lib/modules/6.1.0-tiny/modules.dep", b""),
            ("sbin/init", b"#!"),
            ("etc/systemd/system/x", b""),
            ("etc/hostname", b"golden\n"),
            ("etc/hosts", b"127.0.0.1 localhost\n127.0.1.1 golden.lan golden\n"),
            ("etc/machine-id", b"0123456789abcdef0123456789abcdef\n"),
            ("var/lib/dbus/machine-id", b"0123456789abcdef0123456789abcdef\n"),
            ("var/lib/systemd/random-seed", &noise(512, 3)),
            ("var/lib/dhcp/dhclient.eth0.leases", b"lease {}\n"),
            ("etc/ssh/ssh_host_rsa_key", b"secret\n"),
            ("etc/ssh/ssh_host_rsa_key.pub", b"public\n"),
            ("etc/shadow", shadow.as_bytes()),
            ("etc/passwd", passwd.as_bytes()),
            ("root/.bashrc", b""),
        ],
    );
    // What mke2fs copies is a regular file; init is a link.
    field.config("disk = ['disk.img,,xvda2']\nroot = '/dev/xvda2 ro'\nname = 'golden'\n")
}

/// The same with /sbin/init a link to systemd.
fn golden_systemd(field: &Field, kind: &str) -> String {
    let tree = field.path("disk.img.tree");
    fs::create_dir_all(tree.join("sbin")).unwrap();
    fs::create_dir_all(tree.join("lib/systemd")).unwrap();
    fs::write(tree.join("lib/systemd/systemd"), "").unwrap();
    symlink("../lib/systemd/systemd", tree.join("sbin/init")).unwrap();
    golden(field, kind)
}

fn debugfs(part: &Path, request: &str) -> String {
    run_text("debugfs", &["-R", request, &part.to_string_lossy()])
}

fn cat(mount: &Mount, path: &str) -> String {
    debugfs(&mount.part(2), &format!("cat {path}"))
}

fn is_there(mount: &Mount, path: &str) -> bool {
    let said = crate::common::process::output(
        "debugfs",
        &["-R", &format!("stat {path}"), &mount.part(2).to_string_lossy()],
    );
    crate::common::process::text(&said.stdout).contains("Inode:")
}

fn is_clean(mount: &Mount) {
    run("e2fsck", &["-fn".as_ref(), mount.part(2).as_os_str()]);
}

/// The files that the options below name.
fn write_files(field: &Field) {
    fs::write(field.path("key.pub"), format!("{KEY}\n")).unwrap();
    fs::write(field.path("hash"), format!("{HASH}\n")).unwrap();
    fs::write(field.path("first.sh"), "#!/bin/sh\ntouch /root/ran\n").unwrap();
    let tree = field.path("in/tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/tool"), noise(200_000, 9)).unwrap();
    fs::set_permissions(tree.join("sub/tool"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::write(tree.join("text"), "hello\n").unwrap();
    symlink("sub/tool", tree.join("link")).unwrap();
}

/// All options at once.
fn all(field: &Field) -> Vec<String> {
    let words = [
        "--hostname=web2".to_owned(),
        "--machine-id=reset".into(),
        format!("--root-uuid={GIVEN}"),
        format!("--ssh-key={}", field.arg("key.pub")),
        format!("--ssh-key=me:{}", field.arg("key.pub")),
        format!("--root-password-hash=@{}", field.arg("hash")),
        format!("--copy-in={}:/srv/new", field.arg("in/tree")),
        format!("--run-first={}", field.arg("first.sh")),
    ];
    words.to_vec()
}

fn mount_with(config: &str, options: &[String], overlay: &str) -> Mount {
    let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
    words.extend(["--overlay", overlay]);
    mount(config, &words)
}

#[test]
#[ignore = "slow"]
fn everything_once_and_the_same_every_time() {
    for kind in ["ext4", "ext3"] {
        let field = Field::new();
        let config = golden_systemd(&field, kind);
        write_files(&field);
        let options = all(&field);
        let overlay = field.arg("o.qcow2");
        let mounted = mount_with(&config, &options, &overlay);
        let printed = mounted.printed();
        assert!(printed.contains("adapted: /etc/hostname: golden became web2\n"), "{printed}");
        assert!(printed.contains(&format!("root=UUID={GIVEN} ")), "{printed}");
        assert!(!printed.contains(HASH) && !printed.contains(KEY), "{printed}");
        is_clean(&mounted);
        let part = mounted.part(2);
        assert_eq!(blkid(&part, "UUID"), GIVEN);
        assert_eq!(cat(&mounted, "/etc/hostname"), "web2");
        assert_eq!(cat(&mounted, "/etc/hosts"), "127.0.0.1 localhost\n127.0.1.1 web2.lan web2");
        assert!(cat(&mounted, "/etc/fstab").contains(&format!("UUID={GIVEN} / ext4")));
        assert!(cat(&mounted, "/boot/grub/menu.lst").contains(&format!("root=UUID={GIVEN}")));
        assert!(is_there(&mounted, "/etc/machine-id"));
        assert_eq!(cat(&mounted, "/etc/machine-id"), "");
        for gone in [
            "/var/lib/dbus/machine-id",
            "/var/lib/systemd/random-seed",
            "/var/lib/dhcp/dhclient.eth0.leases",
            "/etc/ssh/ssh_host_rsa_key",
            "/etc/ssh/ssh_host_rsa_key.pub",
        ] {
            assert!(!is_there(&mounted, gone), "{gone}");
        }
        assert_eq!(
            cat(&mounted, "/etc/shadow"),
            format!("root:{HASH}:19000:0:99999:7:::\nmail:*:19000:0:99999:7:::")
        );
        for (path, owner) in
            [("/root", "User:     0   Group:     0"), ("/home/me", "User:  1000   Group:  1001")]
        {
            assert_eq!(cat(&mounted, &format!("{path}/.ssh/authorized_keys")), KEY);
            for (file, mode) in [("", "0700"), ("/authorized_keys", "0600")] {
                let stat = debugfs(&part, &format!("stat {path}/.ssh{file}"));
                assert!(stat.contains(&format!("Mode:  {mode}")) && stat.contains(owner), "{stat}");
            }
        }
        let tool = debugfs(&part, "stat /srv/new/tree/sub/tool");
        assert!(
            tool.contains("Mode:  04751") && tool.contains("User:     0   Group:     0"),
            "{tool}"
        );
        let dumped = field.path("dumped");
        debugfs(&part, &format!("dump /srv/new/tree/sub/tool {}", dumped.display()));
        assert!(fs::read(&dumped).unwrap() == noise(200_000, 9));
        assert!(debugfs(&part, "stat /srv/new/tree/link").contains("link dest: \"sub/tool\""));
        assert_eq!(cat(&mounted, "/srv/new/tree/text"), "hello");
        let scripts = debugfs(&part, "ls -p /etc/synthdisk/first-boot/pending");
        assert!(scripts.contains("/100755/0/0/001-first.sh-"), "{scripts}");
        let bytes = fs::read(&part).unwrap();
        mounted.unmount();

        // The same again edits nothing, nor does a mount without any options.
        let before = fs::read(&overlay).unwrap();
        for options in [&options[..], &[]] {
            let mounted = mount_with(&config, options, &overlay);
            let printed = mounted.printed();
            assert!(!printed.contains("adapted: "), "{printed}");
            assert!(printed.contains(&format!("root=UUID={GIVEN} ")), "{printed}");
            mounted.unmount();
            assert!(fs::read(&overlay).unwrap() == before, "a later mount wrote to the overlay");
        }

        // At another path and time it is the same disk.
        crate::common::clock::next_second(1);
        let mounted = mount_with(&config, &options, &field.arg("other.qcow2"));
        let other = fs::read(mounted.part(2)).unwrap();
        let differ = bytes.iter().zip(&other).position(|(a, b)| a != b);
        assert_eq!(differ, None, "{kind}: two clones with the same options differ at this byte");
        mounted.unmount();
    }
}

#[test]
fn a_new_uuid_is_new_once_per_overlay() {
    for (kind, features) in [("ext4", ""), ("ext4", "^metadata_csum,uninit_bg"), ("ext2", "")] {
        let field = Field::new();
        let (kernel, menu) = (fake_kernel(1), menu("1"));
        let mut options = vec!["-t", kind, "-b", "4096"];
        if !features.is_empty() {
            options.extend(["-O", features]);
        }
        field.ext4_with(
            "disk.img",
            ROOT,
            24 << 20,
            &options,
            &[
                ("boot/vmlinuz-1", &kernel),
                ("boot/initrd.img-1", b"initrd"),
                ("boot/grub/menu.lst", menu.as_bytes()),
                ("etc/fstab", FSTAB.as_bytes()),
            ],
        );
        let config = field.config("disk = ['disk.img,,xvda2']\nroot = '/dev/xvda2 ro'\n");
        let new = ["--root-uuid=new".to_owned()];
        let mut uuids = Vec::new();
        for overlay in ["a.qcow2", "b.qcow2"] {
            let overlay = field.arg(overlay);
            let mounted = mount_with(&config, &new, &overlay);
            let uuid = blkid(&mounted.part(2), "UUID");
            assert_ne!(uuid, ROOT);
            let printed = mounted.printed();
            assert!(
                printed.contains(&format!("adapted: root filesystem: UUID={uuid}\n")),
                "{printed}"
            );
            assert!(cat(&mounted, "/etc/fstab").contains(&format!("UUID={uuid} / ext4")));
            is_clean(&mounted);
            // The loader's command line as it is in the gap.
            let gap = fs::read(mounted.disk()).unwrap();
            let cmdline = format!("root=UUID={uuid} ");
            assert!(gap[..1 << 20].windows(cmdline.len()).any(|w| w == cmdline.as_bytes()));
            mounted.unmount();
            let before = fs::read(&overlay).unwrap();
            let mounted = mount_with(&config, &new, &overlay);
            assert_eq!(blkid(&mounted.part(2), "UUID"), uuid);
            assert!(mounted.printed().contains(&cmdline), "{}", mounted.printed());
            mounted.unmount();
            assert!(fs::read(&overlay).unwrap() == before, "{kind} {features}");
            uuids.push(uuid);
        }
        assert_ne!(uuids[0], uuids[1]);

        // A given UUID replaces that.
        let given = [format!("--root-uuid={GIVEN}")];
        let mounted = mount_with(&config, &given, &field.arg("a.qcow2"));
        assert_eq!(blkid(&mounted.part(2), "UUID"), GIVEN);
        assert!(cat(&mounted, "/etc/fstab").contains(&format!("UUID={GIVEN} / ext4")));
        is_clean(&mounted);
        mounted.unmount();
    }
}

/// A kernel of the host has its command line from the config, and no boot configuration is read.
#[test]
fn a_new_uuid_with_a_kernel_of_the_host() {
    let field = Field::new();
    golden_systemd(&field, "ext4");
    fs::write(field.path("vmlinuz"), fake_kernel(1)).unwrap();
    fs::write(field.path("initrd"), "initrd").unwrap();
    let text = format!(
        "disk = ['disk.img,,xvda2']\nroot = 'UUID={ROOT} ro'\nkernel = 'vmlinuz'\nramdisk = 'initrd'\n"
    );
    let config = field.config(&text);
    let overlay = field.arg("o.qcow2");
    for _ in 0..2 {
        let mounted = mount_with(&config, &[format!("--root-uuid={GIVEN}")], &overlay);
        assert!(
            mounted.printed().contains(&format!("root=UUID={GIVEN} ro")),
            "{}",
            mounted.printed()
        );
        assert_eq!(blkid(&mounted.part(2), "UUID"), GIVEN);
        mounted.unmount();
    }
}

/// What the clone has changed since stays; what new options ask for changes.
#[test]
fn what_is_the_clones_own_stays() {
    let field = Field::new();
    let config = golden_systemd(&field, "ext4");
    let overlay = field.arg("o.qcow2");
    let reset = ["--machine-id=reset".to_owned(), "--hostname=one".into()];
    let mounted = mount_with(&config, &reset, &overlay);
    // As the guest's first boot does.
    let (id, key) = (field.path("id"), field.path("key"));
    fs::write(&id, "fedcba9876543210fedcba9876543210\n").unwrap();
    fs::write(&key, "own\n").unwrap();
    let commands = field.path("commands");
    fs::write(
        &commands,
        format!(
            "rm /etc/machine-id\nwrite {} /etc/machine-id\nwrite {} /etc/ssh/ssh_host_rsa_key\n",
            id.display(),
            key.display()
        ),
    )
    .unwrap();
    run("debugfs", &["-w", "-f", &commands.to_string_lossy(), &mounted.part(2).to_string_lossy()]);
    mounted.unmount();
    let again = ["--machine-id=reset".to_owned(), "--hostname=two".into(), "--adapt=none".into()];
    let mounted = mount_with(&config, &again, &overlay);
    assert_eq!(cat(&mounted, "/etc/machine-id"), "fedcba9876543210fedcba9876543210");
    assert_eq!(cat(&mounted, "/etc/ssh/ssh_host_rsa_key"), "own");
    assert_eq!(cat(&mounted, "/etc/hostname"), "two");
    assert_eq!(cat(&mounted, "/etc/hosts"), "127.0.0.1 localhost\n127.0.1.1 two.lan two");
    mounted.unmount();
}

/// `--adapt none` does not affect options like --hostname.
#[test]
fn no_adaptation_and_no_overlay() {
    let field = Field::new();
    let config = golden_systemd(&field, "ext4");
    let mounted = mount(&config, &["--adapt=none", "--hostname=web2", "--root-uuid=new"]);
    assert_eq!(cat(&mounted, "/etc/hostname"), "web2");
    assert_ne!(blkid(&mounted.part(2), "UUID"), ROOT);
    assert!(cat(&mounted, "/etc/fstab").contains("/dev/xvda1 none swap"));
    mounted.unmount();
    let mounted = mount(&config, &["--bootloader=none", "--hostname=web3"]);
    assert_eq!(cat(&mounted, "/etc/hostname"), "web3");
    mounted.unmount();
}

/// Two clones of one image at the same time.
#[test]
fn a_pair() {
    let field = Field::new();
    let config = golden_systemd(&field, "ext4");
    let clone = |name: &str| {
        let options = [format!("--hostname={name}"), "--root-uuid=new".into()];
        mount_with(&config, &options, &field.arg(&format!("{name}.qcow2")))
    };
    let pair = [clone("left"), clone("right")];
    assert_eq!(cat(&pair[0], "/etc/hostname"), "left");
    assert_eq!(cat(&pair[1], "/etc/hostname"), "right");
    assert_ne!(blkid(&pair[0].part(2), "UUID"), blkid(&pair[1].part(2), "UUID"));
    pair.into_iter().for_each(Mount::unmount);
}

/// The same options through `-o`, as in fstab, and through `adapt`, which shows or makes the edits.
#[test]
fn other_commands() {
    let field = Field::new();
    let config = golden_systemd(&field, "ext4");
    let mounted = mount(&config, &["-o", "hostname=web2,root_uuid=new"]);
    assert_eq!(cat(&mounted, "/etc/hostname"), "web2");
    assert_ne!(blkid(&mounted.part(2), "UUID"), ROOT);
    mounted.unmount();
    let adapt = |words: &[&str]| {
        let uuid = format!("--root-uuid={GIVEN}");
        let mut all = vec!["adapt", "--config", &config, "--hostname=web2", &uuid];
        all.extend(words);
        let output = crate::common::process::synthdisk(&all);
        [output.stdout, output.stderr].map(|bytes| crate::common::process::text(&bytes))
    };
    let [diff, said] = adapt(&["--dry-run"]);
    assert!(diff.contains("--- a/etc/hostname\n+++ b/etc/hostname\n@@ -1 +1 @@\n-golden\n+web2\n"));
    assert!(said.contains(&format!("root filesystem: UUID={GIVEN}\n")), "{said}");
    let overlay = field.arg("o.qcow2");
    let [_, said] = adapt(&["--overlay", &overlay]);
    assert!(said.contains("adapted: /etc/hostname: golden became web2\n"), "{said}");
    let mounted = mount(&config, &["--overlay", &overlay]);
    assert_eq!(cat(&mounted, "/etc/hostname"), "web2");
    assert_eq!(blkid(&mounted.part(2), "UUID"), GIVEN);
    mounted.unmount();
    let [_, said] = adapt(&["--overlay", &overlay]);
    assert!(said.contains("nothing to adapt"), "{said}");
}
