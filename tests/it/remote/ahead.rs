//! Recordings, which let chunks be fetched ahead, and manifests, with which they are compared.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{CHUNK, Scene, UNREAD, read};
use crate::common::hash::sha256;
use crate::common::http::HttpServer;
use crate::common::mount::Mount;
use crate::common::overlay::wait_until;
use crate::common::process::{expect_failure, synthdisk};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn what_was_recorded_is_fetched_ahead() {
    let mut scene = Scene::new();
    let recording = scene.tiny.file("recording");
    let mount = scene.mount_with(&["--record", text(&recording)]);
    for n in [3, 1, 2, 0] {
        read(mount.part(1), UNREAD + n * CHUNK, 4096).unwrap();
    }
    let fetched = scene.server.bytes();
    mount.unmount();
    let lines = fs::read_to_string(&recording).unwrap();
    let chunks: Vec<u64> = lines
        .lines()
        .skip(2)
        .map(|line| line.split(' ').nth(1).unwrap().parse().unwrap())
        .collect();
    let first = UNREAD / CHUNK;
    assert_eq!(chunks[chunks.len() - 4..], [first + 3, first + 1, first + 2, first], "{lines}");
    // On another host, nothing has to be asked for.
    scene.cache = scene.tiny.file("other-cache");
    let before = scene.server.bytes();
    let mount = scene.mount_with(&["--prefetch", text(&recording)]);
    // Both begin by asking what it is, with a byte.
    wait_until("all is fetched", || scene.server.bytes() - before >= fetched);
    let requests = scene.server.requests();
    for n in 0..4 {
        let offset = UNREAD + n * CHUNK;
        assert_eq!(read(mount.part(1), offset, 4096).unwrap(), scene.bytes(offset, 4096));
    }
    assert_eq!(scene.server.requests(), requests);
    assert_eq!(scene.server.bytes() - before, fetched);
    let image = text(&scene.tiny.image);
    let url = scene.server.url("guest.img");
    let args = ["map", "--cache-size", "0", "--prefetch", image, &url];
    expect_failure(&args, 1);
}

#[test]
fn a_manifest_admits_only_its_image() {
    let scene = Scene::new();
    let golden = scene.tiny.file("golden.raw");
    let image = text(&scene.tiny.image);
    let finalize = [
        "finalize",
        "--bootloader",
        "direct",
        "--swap",
        "0",
        "--write-manifest",
        "-o",
        text(&golden),
        image,
    ];
    synthdisk(&finalize);
    let manifest = scene.tiny.file("golden.raw.manifest");
    let server = HttpServer::new(&golden);
    let url = server.url("golden.raw");
    let cache = scene.tiny.file("cache");
    let options = ["--cache-dir", text(&cache), "--manifest", text(&manifest)];
    let mount = Mount::new(&options, &url);
    assert_eq!(sha256(mount.part(1)), sha256(&scene.tiny.image));
    mount.unmount();
    // One byte is another, and the server does not say so. What is cached is right.
    let file = File::options().write(true).open(&golden).unwrap();
    // In the partition, which is the last 16 MiB.
    let at = golden.metadata().unwrap().len() - (8 << 20);
    let mut byte = [0];
    File::open(&golden).unwrap().read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
    let mount = Mount::new(&options, &url);
    read(mount.disk(), at / 4096 * 4096, 4096).unwrap();
    mount.unmount();
    for dir in ["a", "b"] {
        let cache = scene.tiny.file(dir);
        if dir == "b" {
            // Another mount, without a manifest, has cached what the server sends now.
            let mount = Mount::new(&["--cache-dir", text(&cache)], &url);
            read(mount.disk(), at / 4096 * 4096, 4096).unwrap();
        }
        let options = ["--cache-dir", text(&cache), options[2], options[3]];
        let mount = Mount::new(&options, &url);
        assert!(read(mount.disk(), at / 4096 * 4096, 4096).is_err());
    }
    let other = scene.server.url("guest.img");
    let said = expect_failure(&["map", "--cache-size", "0", options[2], options[3], &other], 1);
    assert!(said.contains("it is another image"), "{said}");
}
