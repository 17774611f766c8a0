//! What is shown of an image on an HTTP server is what it contains.

use std::fs;
use std::path::Path;

use super::{CHUNK, Scene, UNREAD, read};
use crate::common::hash::{Untouched, sha256};
use crate::common::http::{HttpServer, TestCertificates};
use crate::common::mount::Mount;
use crate::common::process::{
    SYNTHDISK, command, expect_failure, have, run, skip, synthdisk, text,
};
use crate::common::serve::Served;
use crate::common::tiny::Tiny;

#[test]
fn a_mount_shows_what_the_file_contains() {
    let scene = Scene::new();
    let untouched = Untouched::remember(&scene.tiny.image);
    let local = Mount::new(&[], &scene.tiny.image);
    let remote = scene.mount();
    // Only what planning needs was fetched.
    assert!(scene.server.bytes() < 10 << 20, "{} bytes", scene.server.bytes());
    assert_eq!(sha256(remote.disk()), sha256(local.disk()));
    // Each chunk once, and a byte to find out what it is.
    assert_eq!(scene.server.bytes(), (16 << 20) + 1);
    let status: serde_json::Value =
        serde_json::from_slice(&fs::read(remote.dir().join(".synthdisk.json")).unwrap()).unwrap();
    assert!(status.to_string().contains(&scene.server.url("guest.img")), "{status}");
    remote.unmount();
    untouched.check();
}

#[test]
fn every_command_takes_a_url() {
    let scene = Scene::new();
    let url = scene.server.url("guest.img");
    let cache = ["--cache-dir", scene.cache_dir()];
    let all =
        |first: &[&str], rest: &[&str]| text(&synthdisk(&[first, &cache, rest].concat()).stdout);
    assert!(all(&["inspect"], &[&url]).contains("ext4"));
    assert!(all(&["map"], &[&url]).contains(&url));
    let (ours, theirs) = (scene.tiny.file("ours.raw"), scene.tiny.file("theirs.raw"));
    let finalize = ["finalize", "--bootloader", "direct", "-o"];
    let to = |path: &Path| path.to_string_lossy().into_owned();
    all(&[&finalize[..], &[&to(&ours)]].concat(), &[&url]);
    synthdisk(&[&finalize[..], &[&to(&theirs), &to(&scene.tiny.image)]].concat());
    assert_eq!(sha256(&ours), sha256(&theirs));
    let served = Served::new(&cache, &url);
    if have("nbdcopy") {
        let copy = scene.tiny.file("copy.raw");
        run("nbdcopy", &[served.uri("part1.raw"), to(&copy)]);
        assert_eq!(sha256(&copy), sha256(&scene.tiny.image));
    }
    drop(served);
    let config = scene.tiny.file("guest.cfg");
    fs::write(&config, format!("name='web1'\ndisk=['{url},raw,xvda1,w']\n")).unwrap();
    let mount = Mount::of(&[cache[0], cache[1], "--config", &to(&config)], &[]);
    assert_eq!(sha256(mount.part(1)), sha256(&scene.tiny.image));
}

#[test]
fn other_formats_are_read_from_there() {
    if !have("qemu-img") {
        return skip("no qemu-img");
    }
    let tiny = Tiny::new();
    let to = |path: &Path| path.to_string_lossy().into_owned();
    for format in ["qcow2", "vhdx"] {
        let image = tiny.file(&format!("image.{format}"));
        run("qemu-img", &["convert", "-O", format, &to(&tiny.image), &to(&image)]);
        let server = HttpServer::new(&image);
        let cache = tiny.file("cache");
        // The name says what it is; with a query, or by the option.
        let urls = [
            (server.url(&format!("x.{format}")), vec![]),
            (server.url(&format!("x.{format}?version=1")), vec![]),
            (server.url("x"), vec!["--image-format", format]),
        ];
        for (url, options) in urls {
            let options = [&["--cache-dir", cache.to_str().unwrap()], &options[..]].concat();
            let mount = Mount::new(&options, &url);
            assert_eq!(sha256(mount.part(1)), sha256(&tiny.image), "{url}");
        }
        // Its bytes do not.
        let said = expect_failure(&["map", "--cache-dir", &to(&cache), &server.url("x.img")], 1);
        assert!(said.contains("would be read as raw"), "{said}");
    }
    let (base, top) = (tiny.file("base.img"), tiny.file("top.qcow2"));
    fs::copy(&tiny.image, &base).unwrap();
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &to(&base), "-F", "raw", &to(&top)]);
    let server = HttpServer::new(&top);
    let said = expect_failure(&["map", "--cache-size", "0", &server.url("top.qcow2")], 1);
    assert!(said.contains("only whole images are read from elsewhere"), "{said}");
}

#[test]
fn encryption_is_checked() {
    if !have("openssl") {
        return skip("no openssl");
    }
    let (tiny, certificates) = (Tiny::new(), TestCertificates::make());
    let server = HttpServer::encrypted(&tiny.image, &certificates);
    let copy = tiny.file("copy.raw");
    let finalize = |roots: &Path| {
        let mut command = command(SYNTHDISK);
        command.args([
            "finalize",
            "--cache-size",
            "0",
            "--bootloader",
            "direct",
            "--partition",
            "1",
        ]);
        command.arg("-o").arg(&copy).arg(server.url("guest.img"));
        command.env("SSL_CERT_FILE", roots).output().expect("it runs")
    };
    let refused = finalize(Path::new("/dev/null"));
    let said = text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("certificate"), "{said}");
    let done = finalize(&certificates.ca());
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(sha256(&copy), sha256(&tiny.image));
}

#[test]
fn secrets_are_shown_nowhere() {
    let scene = Scene::new();
    // Of "me" and "pw-s3cret".
    scene.server.require("Basic bWU6cHctczNjcmV0");
    let url = scene.server.url("guest.img?sig=q-s3cret");
    let with = url.replace("://", "://me:pw-s3cret@");
    let log = scene.tiny.file("log");
    let mount = Mount::new(
        &["--cache-dir", scene.cache_dir(), "--verbose", "--log", log.to_str().unwrap()],
        &with,
    );
    assert_eq!(read(mount.part(1), UNREAD, 4096).unwrap(), scene.bytes(UNREAD, 4096));
    // An error, for the log.
    scene.server.tag(Some("\"two\""));
    read(mount.part(1), UNREAD + CHUNK, 4096).unwrap_err();
    let mut shown = mount.printed();
    shown += &fs::read_to_string(mount.dir().join(".synthdisk.json")).unwrap();
    shown += &fs::read_to_string("/proc/self/mountinfo").unwrap();
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("has changed since it was opened"), "{log}");
    shown += &log;
    for pid in mount.daemon_pids() {
        shown += &fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    }
    let refused = [url.clone(), with.replace("pw-s3cret", "wrong-s3cret")];
    for url in &refused {
        let mut args = vec!["map", "--cache-size", "0"];
        args.push(url);
        shown += &expect_failure(&args, 1);
    }
    // What is wrong with a disk of a config.
    for spec in [
        format!("{with},bogus,xvda1,w"),
        format!("target={with},xvda1"),
        format!("format=bogus,vdev=xvda1,access=w,target={with}"),
        format!("raw:{with},nonsense,w"),
        format!("{with},raw,xvda1,w,more,and-more={with}"),
    ] {
        let config = scene.tiny.file("bad.cfg");
        fs::write(&config, format!("disk=['{spec}']\n")).unwrap();
        let mut map = command(SYNTHDISK);
        map.args(["map", "--cache-size", "0", "--config"]).arg(&config);
        shown += &text(&map.output().unwrap().stderr);
    }
    let xva = with.replace("guest.img", "guest.xva");
    let said = expect_failure(&["map", "--cache-size", "0", &xva], 1);
    assert!(said.contains("download it first"), "{said}");
    shown += &said;
    let denied = "the server denies access (status 401)";
    assert_eq!(shown.matches(denied).count(), 2, "{shown}");
    assert!(!shown.contains("s3cret"), "{shown}");
    let found = run("sh", &["-c", "grep -rl s3cret \"$1\" || true", "sh", scene.cache_dir()]);
    assert_eq!(text(&found.stdout), "");
    // From a file, as curl reads it.
    let netrc = scene.tiny.file("netrc");
    fs::write(&netrc, "machine 127.0.0.1 login me password pw-s3cret\n").unwrap();
    let mut command = command(SYNTHDISK);
    command.args(["map", "--cache-size", "0", &url]).env("NETRC", &netrc);
    assert!(command.output().unwrap().status.success());
}
