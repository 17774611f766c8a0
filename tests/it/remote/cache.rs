//! What is kept of remote images.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{CHUNK, Scene, UNREAD, read};
use crate::common::hash::sha256;
use crate::common::http::{Fault, HttpServer};
use crate::common::mount::Mount;
use crate::common::process::{expect_failure, is_root, run, skip};
use crate::common::random::random;

/// Numbers below a limit.
fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut next = random(seed);
    move |limit| next() as u64 % limit
}

/// All files called `name` beneath `dir`.
fn files(dir: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let own = files.into_iter().filter(|path| path.ends_with(name));
    own.chain(dirs.iter().flat_map(|dir| self::files(dir, name))).collect()
}

#[test]
fn a_second_start_fetches_nothing_and_needs_no_server() {
    let mut scene = Scene::new();
    let expected = sha256(&scene.tiny.image);
    let mount = scene.mount();
    assert_eq!(sha256(mount.part(1)), expected);
    // Two at a time share it.
    let bytes = scene.server.bytes();
    let second = scene.mount();
    assert_eq!(sha256(second.part(1)), expected);
    assert_eq!(scene.server.bytes(), bytes + 1);
    mount.unmount();
    second.unmount();
    let (port, url) = (scene.server.port(), scene.server.url("guest.img"));
    scene.server = HttpServer::new(&scene.tiny.image);
    let offline = Mount::new(&["--cache-dir", scene.cache_dir()], &url);
    assert!(offline.printed().contains("is read from the cache"), "{}", offline.printed());
    assert_eq!(sha256(offline.part(1)), expected);
    offline.unmount();
    // Only its owner can read it.
    for file in files(&scene.cache, "data") {
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    }
    // With another version, nothing of the old one is shown.
    let server = HttpServer::on_port(&scene.tiny.image, port);
    server.tag(Some("\"two\""));
    let mount = Mount::new(&["--cache-dir", scene.cache_dir()], &url);
    assert_eq!(sha256(mount.part(1)), expected);
    assert_eq!(server.bytes(), (16 << 20) + 1);
}

#[test]
fn damage_is_found_and_fetched_again() {
    let scene = Scene::new();
    let expected = sha256(&scene.tiny.image);
    let mount = scene.mount();
    assert_eq!(sha256(mount.part(1)), expected);
    mount.unmount();
    let mut random = numbers(12);
    for round in 0..4 {
        for name in ["data", "sums"] {
            let file = File::options().write(true).open(&files(&scene.cache, name)[0]).unwrap();
            let len = file.metadata().unwrap().len();
            for _ in 0..8 {
                file.write_all_at(&[random(256) as u8; 3], random(len - 3)).unwrap();
            }
            if round == 3 {
                // As after a crash: what was written last is missing.
                file.set_len(len / 2).unwrap();
            }
        }
        let mount = scene.mount();
        assert_eq!(sha256(mount.part(1)), expected, "round {round}");
        mount.unmount();
    }
}

#[test]
fn without_room_the_mount_goes_on() {
    let scene = Scene::new();
    let expected = sha256(&scene.tiny.image);
    for size in ["0", "2M"] {
        let mount = scene.mount_with(&["--cache-size", size]);
        assert_eq!(sha256(mount.part(1)), expected, "{size}");
        mount.unmount();
        let used: u64 = match scene.cache.exists() {
            true => {
                files(&scene.cache, "data").iter().map(|f| f.metadata().unwrap().blocks()).sum()
            }
            false => 0,
        };
        assert!(used * 512 <= 2 << 20, "{used} blocks");
    }
    let said =
        expect_failure(&["map", "--cache-dir", "/proc/nothing", &scene.server.url("guest.img")], 1);
    assert!(said.contains("cannot use the cache directory /proc/nothing"), "{said}");
}

/// A filesystem in memory.
struct Small(PathBuf);

impl Drop for Small {
    fn drop(&mut self) {
        run("umount", &["-l".as_ref(), self.0.as_os_str()]);
    }
}

#[test]
fn a_full_filesystem_under_the_cache() {
    if !is_root() {
        return skip("a filesystem is mounted");
    }
    let mut scene = Scene::new();
    let dir = scene.tiny.file("small");
    fs::create_dir(&dir).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=3m,mode=700", "none", dir.to_str().unwrap()]);
    let small = Small(dir.clone());
    scene.cache = dir;
    let mount = scene.mount();
    assert_eq!(sha256(mount.part(1)), sha256(&scene.tiny.image));
    mount.unmount();
    // What was kept is right.
    scene.server.fault(Fault::None);
    let mount = scene.mount();
    assert_eq!(sha256(mount.part(1)), sha256(&scene.tiny.image));
    mount.unmount();
    drop(small);
}

#[test]
fn reads_across_chunks_that_are_cached_and_missing() {
    let scene = Scene::new();
    let mut random = numbers(5);
    let mount = scene.mount();
    for _ in 0..60 {
        let offset = random((16 << 20) / 4096 - 512) * 4096;
        let len = (1 + random(512)) as usize * 4096;
        assert_eq!(read(mount.part(1), offset, len).unwrap(), scene.bytes(offset, len));
    }
    mount.unmount();
    // Again, with some of it damaged in the cache.
    let file = File::options().write(true).open(&files(&scene.cache, "data")[0]).unwrap();
    for n in 0..8 {
        file.write_all_at(b"damaged", (n * 4 + 1) * CHUNK + 77).unwrap();
    }
    let mount = scene.mount();
    for _ in 0..60 {
        let offset = random((16 << 20) / 4096 - 512) * 4096;
        let len = (1 + random(512)) as usize * 4096;
        assert_eq!(read(mount.part(1), offset, len).unwrap(), scene.bytes(offset, len));
    }
    assert_eq!(read(mount.part(1), UNREAD, 4096).unwrap(), scene.bytes(UNREAD, 4096));
}
