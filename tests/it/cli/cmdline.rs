//! What other users see of our processes in /proc/PID/cmdline.

use crate::common::mount::Mount;
use crate::common::tiny::Tiny;
use std::fs;

const HASH: &str = "$5$salt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/";

#[test]
fn no_password_hash_is_in_the_daemons_command_line() {
    let guest = Tiny::with(|tree| {
        fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        fs::write(tree.join("etc/shadow"), "root:*:19000:0:99999:7:::\n").unwrap();
    });
    let option = format!("--root-password-hash={HASH}");
    let mount = Mount::new(&[&option], &guest.image);
    let pids = mount.daemon_pids();
    assert_eq!(pids.len(), 1, "{pids:?}");
    let line = fs::read(format!("/proc/{}/cmdline", pids[0])).unwrap();
    let words: Vec<_> = line.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
    assert_eq!(words[..3], ["synthdisk", "internal", "mount"], "{words:?}");
    assert!(!words.iter().any(|w| w.contains("$5$") || w.contains("password")), "{words:?}");
    let environment = fs::read(format!("/proc/{}/environ", pids[0])).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("$5$"));
    // It did arrive.
    let shadow = mount.guest_file("/etc/shadow").unwrap();
    assert!(shadow.starts_with(&format!("root:{HASH}:")), "{shadow}");
    mount.unmount();
}
