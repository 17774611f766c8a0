//! Reading and writing through NBD: the bytes of a mount, and what is written stays.

use std::fs;

use super::client::*;
use crate::common::hash::Untouched;
use crate::common::mount::Mount;
use crate::common::process::run;
use crate::common::random::random;
use crate::common::serve::Served;
use crate::common::tiny::{Tiny, noise};
use nix::sys::signal::Signal;

const MIB: u64 = 1 << 20;

/// All bytes of an export, read in requests of odd lengths.
fn all(client: &mut Client) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut lens = [1, 511, 4096, 40_000, 1_234_567, 9 * MIB].into_iter().cycle();
    while (bytes.len() as u64) < client.len {
        let at = bytes.len() as u64;
        bytes.extend(client.read(at, lens.next().unwrap().min(client.len - at)));
    }
    bytes
}

#[test]
fn every_export_shows_the_bytes_of_the_file_in_a_mount() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let options = ["--swap", "8M"];
    let (served, mount) = (Served::new(&options, &tiny.image), Mount::new(&options, &tiny.image));
    let mut names: Vec<_> = fs::read_dir(mount.dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let listed = Client::connect(&served.socket()).option(3, b"");
    let (last, servers) = listed.split_last().unwrap();
    assert_eq!(*last, (ACK, Vec::new()));
    let mut found: Vec<_> =
        servers.iter().map(|(_, name)| String::from_utf8(name[4..].to_vec()).unwrap()).collect();
    found.sort();
    assert_eq!(found, names);
    for (name, style) in names.iter().zip(STYLES.into_iter().cycle()) {
        let expected = fs::read(mount.dir().join(name)).unwrap();
        let mut client = Client::open(&served.socket(), name, style);
        assert_eq!(client.len, expected.len() as u64);
        assert!(all(&mut client) == expected, "{name} differs ({style:?})");
        client.disconnect();
    }
    // The first disk has a second name.
    let mut client = Client::open(&served.socket(), "", Style::Simple);
    assert_eq!(client.read(0, 512), fs::read(mount.disk()).unwrap()[..512]);
    untouched.check();
}

/// Extents cover the range, and holes are zeros.
fn check_extents(client: &mut Client, model: &[u8], (offset, len): (u64, u64)) {
    let mut at = offset;
    while at < offset + len {
        let range = (at, offset + len - at);
        let reply = client.ask(BLOCK_STATUS, 0, range, b"");
        assert!(reply.error == 0 && !reply.extents.is_empty(), "{reply:?}");
        for (len, status) in reply.extents {
            assert!(len > 0 && (status == 0 || status == 3), "{status}");
            if status == 3 {
                assert!(model[at as usize..(at + len) as usize].iter().all(|byte| *byte == 0));
            }
            at += len;
        }
    }
    assert_eq!(at, offset + len);
    let one = client.ask(BLOCK_STATUS, REQ_ONE, (offset, len), b"");
    assert_eq!(one.extents.len(), 1);
}

/// Random requests on several connections and files, compared with a vector. Every request is
/// answered before the next one is sent on another connection.
fn against_a_model(options: &[&str], seed: u64) {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    // Without a boot gap, which would follow what is written.
    let options = [&["--bootloader", "none", "--swap", "8M"], options].concat();
    let served = Served::new(&options, &tiny.image);
    let mut clients: Vec<_> =
        STYLES.map(|style| Client::open(&served.socket(), "", style)).into_iter().collect();
    clients.push(Client::open(&served.socket(), "part1.raw", Style::Extended));
    let mut model = all(&mut clients[0]);
    let part = MIB;
    let mut random = random(seed);
    for round in 0..600 {
        let client = &mut clients[random() % 4];
        // Where the export lies on the disk.
        let base = if client.len == model.len() as u64 { 0 } else { part };
        let unit = [1, 512, 4096, 65536][random() % 4];
        let most = [3, 40, 300][random() % 3] * unit.min(16384);
        let at = (random() as u64 % client.len) / unit * unit;
        let len = (1 + random() as u64 % most).next_multiple_of(unit).min(client.len - at);
        let shown = (base + at) as usize..(base + at + len) as usize;
        let range = (at, len);
        let fua = if random() % 8 == 0 { FUA } else { 0 };
        match random() % 8 {
            0..3 => assert!(client.read(at, len) == model[shown], "round {round}, {range:?}"),
            3..5 => {
                let data = noise(len as usize, round);
                assert_eq!(client.ask(WRITE, fua, range, &data).error, 0);
                model[shown].copy_from_slice(&data);
            }
            5 => {
                let no_hole = if random() % 2 == 0 { NO_HOLE } else { 0 };
                assert_eq!(client.ask(WRITE_ZEROES, fua | no_hole, range, b"").error, 0);
                model[shown].fill(0);
            }
            6 => {
                assert_eq!(client.ask(TRIM, fua, range, b"").error, 0);
                model[shown].fill(0);
            }
            _ if client.flags & (1 << 7) == 0 => {
                assert_eq!(client.ask(FLUSH, 0, (0, 0), b"").error, 0);
            }
            _ => check_extents(client, &model[base as usize..], range),
        }
    }
    for client in &mut clients {
        let base = if client.len == model.len() as u64 { 0 } else { part as usize };
        assert!(all(client) == model[base..base + client.len as usize]);
    }
    drop(clients);
    drop(served);
    untouched.check();
}

#[test]
fn random_requests_over_a_temporary_overlay() {
    against_a_model(&[], 1);
}

#[test]
fn random_requests_over_a_persistent_overlay() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = dir.path().join("o.qcow2").to_string_lossy().into_owned();
    against_a_model(&["--overlay", &overlay], 2);
    run("qemu-img", &["check", "-q", &overlay]);
}

#[test]
fn requests_in_flight_are_answered_in_any_order() {
    let tiny = Tiny::new();
    let dir = tempfile::tempdir().unwrap();
    let overlay = dir.path().join("o.qcow2").to_string_lossy().into_owned();
    let served = Served::new(&["--bootloader", "none", "--overlay", &overlay], &tiny.image);
    // FUA makes the server slow, so that it hands requests to other threads.
    let mut client = Client::open(&served.socket(), "", Style::Simple);
    let count = 200u64;
    for i in 0..count {
        client.request(WRITE, FUA, (i * 8192, 4096), &noise(4096, i));
    }
    let mut cookies: Vec<u64> = (0..count)
        .map(|_| {
            let reply = client.bytes(16);
            assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
            u64::from_be_bytes(reply[8..].try_into().unwrap())
        })
        .collect();
    cookies.sort_unstable();
    assert_eq!(cookies, (1..=count).collect::<Vec<_>>());
    for i in 0..count {
        assert!(client.read(i * 8192, 4096) == noise(4096, i), "write {i}");
    }
}

#[test]
fn what_was_written_is_in_the_overlay_of_a_mount() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let dir = tempfile::tempdir().unwrap();
    let overlay = dir.path().join("o.qcow2").to_string_lossy().into_owned();
    let options = ["--overlay", &overlay];
    let data = noise(3 << 20, 9);
    let served = Served::new(&options, &tiny.image);
    let mut client = Client::open(&served.socket(), "part1.raw", Style::Structured);
    client.write(5 * MIB + 512, &data);
    assert_eq!(client.ask(FLUSH, 0, (0, 0), b"").error, 0);
    let mut other = Client::open(&served.socket(), "disk.raw", Style::Extended);
    let before = all(&mut other);
    served.end_by(Signal::SIGTERM);
    drop(served);
    let mount = Mount::new(&options, &tiny.image);
    let shown = fs::read(mount.disk()).unwrap();
    let at = (64 * MIB + 5 * MIB + 512) as usize;
    assert!(shown[at..at + data.len()] == data);
    assert!(shown == before);
    mount.unmount();
    untouched.check();
}

#[test]
fn a_read_only_server_refuses_writes() {
    let tiny = Tiny::new();
    let served = Served::new(&["--read-only"], &tiny.image);
    for style in STYLES {
        let mut client = Client::open(&served.socket(), "", style);
        assert_eq!(client.flags & 2, 2);
        let before = client.read(0, 4096);
        assert_eq!(client.ask(WRITE, 0, (0, 4096), &noise(4096, 3)).error, 1);
        assert_eq!(client.ask(TRIM, 0, (0, 4096), b"").error, 1);
        assert_eq!(client.ask(WRITE_ZEROES, 0, (0, 4096), b"").error, 1);
        assert_eq!(client.ask(FLUSH, 0, (0, 0), b"").error, 0);
        assert_eq!(client.read(0, 4096), before);
    }
}

#[test]
fn the_status_is_an_export() {
    let tiny = Tiny::new();
    let served = Served::new(&["--overlay-limit", "1G"], &tiny.image);
    let status = || -> serde_json::Value {
        let mut client = Client::open(&served.socket(), ".synthdisk.json", Style::Structured);
        assert_eq!(client.flags & 2, 2, "read-only");
        let len = client.len;
        serde_json::from_slice(&client.read(0, len)).unwrap()
    };
    let before = status();
    assert_eq!(before["pid"], served.keeper());
    assert_eq!(before["disks"][0]["overlay_limit"], 1 << 30);
    Client::open(&served.socket(), "", Style::Simple).write(0, &noise(4 << 20, 1));
    let used = |status: &serde_json::Value| status["disks"][0]["overlay_bytes"].as_u64().unwrap();
    assert!(used(&status()) > used(&before));
}
