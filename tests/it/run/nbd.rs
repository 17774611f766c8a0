//! `synthdisk run --export nbd`, with a QEMU that is a shell script.

use super::scene::Scene;
use crate::common::process::{have, skip, text};

#[test]
fn dry_run_names_the_exports() {
    let scene = Scene::new("exit 9");
    let result = scene.run_image(&["--dry-run", "--export", "nbd"]);
    let line = text(&result.stdout);
    assert!(result.status.success(), "{}", text(&result.stderr));
    for part in ["file.driver=nbd,", "file.server.path=SOCKET,", "file.export=disk.raw"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!line.contains("MOUNTPOINT"), "{line}");
    scene.assert_clean();
}

#[test]
fn qemu_gets_the_disk_from_a_private_socket() {
    if !have("nbdinfo") {
        return skip("no libnbd");
    }
    let scene = Scene::new(
        "socket=$(printf '%s\\n' \"$@\" | sed -n 's/.*file.server.path=\\([^,]*\\).*/\\1/p')\n\
         stat -c '%a' \"$socket\" \"${socket%/*}\" >$home/modes\n\
         mountpoint -q \"${socket%/*}\" && echo mount >>$home/modes\n\
         nbdinfo --size \"nbd+unix:///disk.raw?socket=$socket\" >$home/size",
    );
    let result = scene.run_image(&["--export", "nbd"]);
    assert!(result.status.success(), "{}", text(&result.stderr));
    let said = |name: &str| std::fs::read_to_string(scene.path(name)).unwrap();
    assert_eq!(said("modes"), "600\n700\n");
    assert_eq!(said("size").trim().parse::<u64>().unwrap() % 512, 0);
    scene.assert_clean();
}

#[test]
fn nothing_is_left_when_qemu_fails() {
    let scene = Scene::new("echo 'qemu-system-x86_64: no' >&2; exit 3");
    let result = scene.run_image(&["--export", "nbd"]);
    assert_eq!(result.status.code(), Some(1));
    assert!(text(&result.stderr).contains("QEMU failed: no"), "{}", text(&result.stderr));
    scene.assert_clean();
}
