//! Servers that are slow, that lie, and that change what they have.

use super::{CHUNK, Scene, UNREAD, read};
use crate::common::http::Fault;
use crate::common::process::expect_failure;

#[test]
fn what_no_server_may_do_is_said() {
    let scene = Scene::new();
    let url = scene.server.url("guest.img");
    for (fault, words) in [
        (Fault::NoRanges, "cannot send parts of a file"),
        (Fault::Compressed, "compresses what it sends"),
        (Fault::Redirects, "redirects more than 5 times"),
        (Fault::Denied, "denies access"),
    ] {
        scene.server.fault(fault);
        let said = expect_failure(&["map", "--cache-dir", scene.cache_dir(), &url], 1);
        assert!(said.contains(words) && said.contains(&url), "{fault:?}: {said}");
        assert!(!said.contains("secret"), "{said}");
    }
    let said = expect_failure(&["map", "http://127.0.0.1:1"], 2);
    assert!(said.contains("names a server and no image"), "{said}");
}

#[test]
fn impossible_lengths_are_refused() {
    let scene = Scene::new();
    scene.server.fault(Fault::HugeLength);
    let url = scene.server.url("guest.img");
    let said = expect_failure(&["map", "--cache-dir", scene.cache_dir(), &url], 1);
    assert!(said.contains("says that it has 18446744073709551615 bytes"), "{said}");
}

#[test]
fn an_overlay_belongs_to_a_version() {
    let scene = Scene::new();
    let overlay = scene.tiny.file("overlay.qcow2");
    let options = ["--overlay", overlay.to_str().unwrap()];
    scene.mount_with(&options).unmount();
    scene.mount_with(&options).unmount();
    // The same length, first and last bytes; what is between them, only the server knows.
    scene.server.tag(Some("\"two\""));
    let url = scene.server.url("guest.img");
    let args = ["map", "--cache-dir", scene.cache_dir(), "--overlay", options[1], &url];
    let said = expect_failure(&args, 1);
    assert!(said.contains("was changed since"), "{said}");
    scene.server.tag(Some("\"one\""));
    scene.mount_with(&options).unmount();
}

#[test]
fn what_passes_is_tried_again() {
    let scene = Scene::new();
    scene.server.fault_for(Fault::Busy, 2);
    let mount = scene.mount();
    let faults =
        [Fault::Drop, Fault::Cut, Fault::Long, Fault::WrongRange, Fault::EndlessHead, Fault::Busy];
    for (fault, offset) in faults.into_iter().zip((UNREAD..).step_by(CHUNK as usize)) {
        scene.server.fault_for(fault, 1);
        let requests = scene.server.requests();
        let found = read(mount.part(1), offset + 4096, 8192).unwrap();
        assert_eq!(found, scene.bytes(offset + 4096, 8192), "{fault:?}");
        assert!(scene.server.requests() >= requests + 2, "{fault:?} was not noticed");
    }
}

#[test]
fn an_image_that_changes_is_no_mixture() {
    let scene = Scene::new();
    for (fault, tag) in [(Fault::None, "\"two\""), (Fault::WrongLength, "\"one\"")] {
        scene.server.fault(Fault::None);
        scene.server.tag(Some("\"one\""));
        let mount = scene.mount_with(&["--cache-size", "0"]);
        let here = read(mount.part(1), 0, 4096).unwrap();
        scene.server.tag(Some(tag));
        scene.server.fault(fault);
        assert!(read(mount.part(1), UNREAD, 4096).is_err(), "{tag}");
        // It stays an error, even if the old image comes back; what was fetched stays readable.
        scene.server.tag(Some("\"one\""));
        scene.server.fault(Fault::None);
        assert!(read(mount.part(1), UNREAD, 4096).is_err(), "{tag}");
        assert_eq!(read(mount.part(1), 0, 4096).unwrap(), here);
        mount.unmount();
    }
    // Whoever mounts it again gets the new one.
    scene.server.tag(Some("\"two\""));
    let mount = scene.mount();
    assert_eq!(read(mount.part(1), UNREAD, 4096).unwrap(), scene.bytes(UNREAD, 4096));
}

#[test]
fn without_versions_the_mount_says_so() {
    let scene = Scene::new();
    scene.server.tag(None);
    let mount = scene.mount();
    assert!(mount.printed().contains("does not tell versions apart"), "{}", mount.printed());
    assert_eq!(read(mount.part(1), UNREAD, 4096).unwrap(), scene.bytes(UNREAD, 4096));
    // A weak tag cannot be a condition, and is compared.
    scene.server.tag(Some("W/\"1\""));
    let mount = scene.mount();
    assert_eq!(read(mount.part(1), UNREAD, 4096).unwrap(), scene.bytes(UNREAD, 4096));
    scene.server.tag(Some("W/\"2\""));
    assert!(read(mount.part(1), UNREAD + CHUNK, 4096).is_err());
}

#[test]
fn a_server_that_is_too_slow_gives_errors() {
    let scene = Scene::new();
    let mount = scene.mount();
    let here = read(mount.part(1), 0, 4096).unwrap();
    // It sends a byte per second. All readers are given up at the same time.
    scene.server.fault(Fault::Drip);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let part = mount.part(1);
            scope.spawn(move || assert!(read(part, UNREAD + n * CHUNK, 4096).is_err()));
        }
        // Others are not held up.
        assert_eq!(read(mount.part(1), 0, 4096).unwrap(), here);
    });
    scene.server.fault(Fault::None);
    assert_eq!(read(mount.part(1), UNREAD, 4096).unwrap(), scene.bytes(UNREAD, 4096));
}
