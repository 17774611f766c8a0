//! Clients that do not keep to the protocol, or do not go on.

use std::io::Write;
use std::os::unix::net::UnixStream;

use super::client::*;
use crate::common::overlay::wait_until;
use crate::common::random::random;
use crate::common::serve::Served;
use crate::common::tiny::Tiny;

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
        assert_eq!(client.reply(READ, (0, 0)).error, 75);
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
