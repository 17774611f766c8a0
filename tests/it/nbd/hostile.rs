//! Clients that do not keep to the protocol, or do not go on.

use std::io::Write;
use std::os::unix::net::UnixStream;

use std::sync::Arc;

use super::client::*;
use crate::common::model::region;
use crate::common::overlay::wait_until;
use crate::common::random::random;
use crate::common::serve::Served;
use crate::common::tiny::Tiny;
use synthdisk::disk::{Disk, RegionTable, Scratch, Source};
use synthdisk::export::{ExportSet, ExportedFile};

/// The server must answer others.
fn works(served: &Served) {
    let mut client = Client::open(&served.socket(), "part1.raw", Style::Structured);
    assert_eq!(client.read(1080, 2), [0x53, 0xef]);
    client.disconnect();
}

#[test]
fn nonsense_ends_the_connection() {
    let tiny = Tiny::new();
    let served = Served::new(&[], &tiny.image);
    let connect = || Client::connect(&served.socket());
    // Unknown flags of a client.
    let mut stream = connect();
    stream.send(b"not an option at all");
    stream.expect_end();
    // An option of 4 GiB.
    let mut client = connect();
    client.send(b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff");
    client.expect_end();
    // Something else than a request.
    let mut client = Client::open(&served.socket(), "", Style::Simple);
    client.send(&[7; 28]);
    client.expect_end();
    for style in STYLES {
        // A payload of more than 32 MiB.
        let mut client = Client::open(&served.socket(), "", style);
        client.request(WRITE, 0, (0, (32 << 20) + 1), b"");
        client.expect_end();
        // A read of that much is only refused.
        let mut client = Client::open(&served.socket(), "", style);
        client.request(READ, 0, (0, (32 << 20) + 1), b"");
        assert_eq!(client.reply(READ, (0, 0)).error, 22);
        client.disconnect();
    }
    works(&served);
}

#[test]
fn random_bytes_harm_nobody() {
    let tiny = Tiny::new();
    let served = Served::new(&[], &tiny.image);
    let mut random = random(5);
    for round in 0..60 {
        let mut client = match round % 4 {
            0 => Client::connect(&served.socket()),
            n => Client::open(&served.socket(), "", STYLES[n - 1]),
        };
        let magic: &[u8] = match round % 4 {
            0 => b"IHAVEOPT",
            3 => &[0x21, 0xe4, 0x1c, 0x71],
            _ => &[0x25, 0x60, 0x95, 0x13],
        };
        for _ in 0..20 {
            let mut bytes = magic.to_vec();
            bytes.extend((0..24 + random() % 40).map(|_| (random() % 256) as u8));
            // Small numbers now and then: short options, known commands.
            bytes[magic.len()..magic.len() + 3].fill(0);
            if client.stream.write_all(&bytes).is_err() {
                break;
            }
        }
    }
    works(&served);
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let tiny = Tiny::new();
    let served = Served::new(&[], &tiny.image);
    let mut lazy = Client::open(&served.socket(), "", Style::Simple);
    // Replies of 64 MiB, for which no buffer of the kernel has room.
    for _ in 0..8 {
        lazy.request(READ, 0, (0, 8 << 20), b"");
    }
    // And one that stops within a payload.
    let mut half = Client::open(&served.socket(), "", Style::Simple);
    half.request(WRITE, 0, (0, 1 << 20), &[1; 1000]);
    works(&served);
    // Memory is bounded, whatever a client asks for.
    let status = std::fs::read_to_string(format!("/proc/{}/status", served.server())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 200 << 10, "{kib} KiB");
    drop(lazy);
    drop(half);
    let pid = served.server();
    let connections = || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let names = tasks.map(|task| std::fs::read_to_string(task.path().join("comm")));
        names.filter(|name| name.as_ref().is_ok_and(|name| name.starts_with("connection"))).count()
    };
    wait_until("threads of clients that have gone", || connections() == 0);
}

#[test]
fn there_is_a_limit_of_connections() {
    let tiny = Tiny::new();
    let served = Served::new(&[], &tiny.image);
    let mut clients: Vec<_> = (0..64).map(|_| Client::connect(&served.socket())).collect();
    let mut stream = UnixStream::connect(served.socket()).unwrap();
    let mut byte = [0];
    assert_eq!(std::io::Read::read(&mut stream, &mut byte).unwrap(), 0, "one too many");
    clients.pop();
    wait_until("room for a client", || {
        let mut stream = UnixStream::connect(served.socket()).unwrap();
        std::io::Read::read(&mut stream, &mut [0; 8]).unwrap() == 8
    });
}

#[test]
fn the_server_has_no_rights() {
    let tiny = Tiny::new();
    let served = Served::new(&["--sandbox", "auto"], &tiny.image);
    works(&served);
    let status = std::fs::read_to_string(format!("/proc/{}/status", served.server())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_ne!(field("Uid:").split_whitespace().next(), Some("0"));
}

/// A conversation up to the first request, in a style.
fn beginning(style: Style) -> Vec<u8> {
    let option = |number: u32, content: &[u8]| {
        let len = (content.len() as u32).to_be_bytes();
        [&b"IHAVEOPT"[..], &number.to_be_bytes(), &len, content].concat()
    };
    let mut said = vec![0, 0, 0, 3];
    said.extend(match style {
        Style::Simple => Vec::new(),
        Style::Structured => option(8, b""),
        Style::Extended => option(11, b""),
    });
    said.extend(option(3, b""));
    said.extend(option(10, &[&text("")[..], &[0, 0, 0, 1], &text("base:allocation")].concat()));
    said.extend(option(7, &[0, 0, 0, 0, 0, 2, 0, 1, 0, 3]));
    said
}

/// The fuzz target's function, with conversations that are valid but for some bytes.
#[test]
fn conversations_with_wrong_bytes_end() {
    const LEN: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let zeros = region(0, LEN, Source::Zeros);
    let overlay = Scratch::new(dir.path(), LEN).unwrap();
    let disk = Disk::new(RegionTable::new(vec![zeros]).unwrap(), Some(Box::new(overlay)));
    let file = ExportedFile::of_disk("disk.raw".into(), Arc::new(disk), 0, LEN);
    let set = ExportSet::private(vec![file]);
    let mut random = random(11);
    for round in 0..300 {
        let style = STYLES[round % 3];
        let mut said = beginning(style);
        let requests = said.len();
        for _ in 0..8 {
            let extended = style == Style::Extended;
            said.extend(if extended { 0x21e4_1c71u32 } else { 0x2560_9513 }.to_be_bytes());
            let command = (random() % 9) as u8;
            said.extend([0, (random() % 64) as u8 & random() as u8, 0, command]);
            said.extend([7; 8]);
            said.extend((random() as u64 % (LEN + 9)).to_be_bytes());
            let len = random() as u64 % 9000;
            said.extend(&len.to_be_bytes()[if extended { 0 } else { 4 }..]);
            if command == 1 {
                said.extend(std::iter::repeat_n(5, len as usize));
            }
        }
        for _ in 0..random() % 3 {
            let most = if random() % 2 == 0 { requests } else { said.len() };
            let at = random() % most;
            said[at] = (random() % 256) as u8;
        }
        said.truncate(said.len() - random() % 40);
        let answer = synthdisk::nbd::converse(&set, &said).unwrap();
        assert!(answer.starts_with(b"NBDMAGICIHAVEOPT"));
    }
}
