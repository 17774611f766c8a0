//! The negotiation: what the protocol demands of a server.

use super::client::*;
use crate::common::serve::Served;
use crate::common::tiny::Tiny;

const INVALID: u32 = 0x8000_0003;
const UNSUPPORTED: u32 = 0x8000_0001;
const POLICY: u32 = 0x8000_0002;
const UNKNOWN: u32 = 0x8000_0006;

#[test]
fn options() {
    let tiny = Tiny::new();
    let served = Served::new(&[], &tiny.image);
    let mut client = Client::connect(&served.socket());
    let kinds = |replies: Vec<(u32, Vec<u8>)>| -> Vec<u32> {
        replies.into_iter().map(|(kind, _)| kind).collect()
    };
    assert_eq!(kinds(client.option(99, b"whatever")), [UNSUPPORTED]);
    assert_eq!(kinds(client.option(3, b"x")), [INVALID], "a list with content");
    assert_eq!(kinds(client.option(5, b"")), [POLICY], "TLS is not set up");
    assert_eq!(kinds(client.option(7, b"")), [INVALID]);
    assert_eq!(client.go("no such export"), Err(UNKNOWN));
    assert_eq!(client.go("../disk.raw"), Err(UNKNOWN));
    // Block status needs structured replies.
    let contexts = |export: &str, queries: &[&str]| {
        let count = (queries.len() as u32).to_be_bytes();
        let queries: Vec<u8> = queries.iter().flat_map(|query| text(query)).collect();
        [&text(export)[..], &count, &queries].concat()
    };
    assert_eq!(kinds(client.option(10, &contexts("", &["base:allocation"]))), [INVALID]);
    client.choose(Style::Structured);
    assert_eq!(kinds(client.option(8, b"")), [INVALID], "twice");
    assert_eq!(kinds(client.option(9, &contexts("", &[]))), [4, ACK]);
    assert_eq!(kinds(client.option(9, &contexts("", &["base:"]))), [4, ACK]);
    assert_eq!(kinds(client.option(9, &contexts("nothing", &[]))), [UNKNOWN]);
    assert_eq!(kinds(client.option(10, &contexts("", &["qemu:x"]))), [ACK]);
    assert_eq!(kinds(client.option(10, &contexts("part1.raw", &["base:allocation"]))), [4, ACK]);
    // Name and block sizes, if they are asked for.
    let info = [&text("")[..], &[0, 2, 0, 1, 0, 3]].concat();
    let replies = client.option(6, &info);
    assert_eq!(kinds(replies.clone()), [INFO, INFO, INFO, ACK]);
    assert_eq!(replies[1].1, [&[0, 1][..], b"disk.raw"].concat());
    assert_eq!(replies[2].1, [0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0]);
    // The context was chosen for another export.
    client.go("disk.raw").unwrap();
    assert_eq!(client.ask(BLOCK_STATUS, 0, (0, 4096), b"").error, 22);
    client.disconnect();
}

#[test]
fn the_first_way_to_begin() {
    let tiny = Tiny::new();
    let served = Served::new(&[], &tiny.image);
    let mut client = Client::connect(&served.socket());
    client.send_option(1, b"part1.raw");
    assert_eq!(client.bytes(8), (16u64 << 20).to_be_bytes());
    assert_eq!(client.bytes(2)[1] & 1, 1);
    client.send(&[0x25, 0x60, 0x95, 0x13, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    client.send(&[0, 0, 0, 0, 0, 0, 4, 56, 0, 0, 0, 2]);
    let reply = client.bytes(18);
    assert_eq!(reply[16..], [0x53, 0xef], "the magic number of an ext4 filesystem");
    let mut client = Client::connect(&served.socket());
    client.send_option(1, b"no such export");
    client.expect_end();
}

#[test]
fn requests_that_cannot_be_done_leave_the_connection_usable() {
    let tiny = Tiny::new();
    let served = Served::new(&[], &tiny.image);
    for style in STYLES {
        let mut client = Client::open(&served.socket(), "part1.raw", style);
        let end = client.len;
        for (command, flags, range, payload, error) in [
            (READ, 0, (end - 10, 20), 0, 22),
            (READ, 0, (u64::MAX - 1, 20), 0, 22),
            // FUA is ignored where it means nothing.
            (READ, FUA, (0, 512), 0, 0),
            (WRITE, 0, (end - 10, 20), 20, 28),
            (WRITE, 0, (end, 5 << 20), 5 << 20, 28),
            (WRITE, DF, (0, 512), 512, 22),
            (TRIM, 0, (end - 10, 20), 0, 22),
            (WRITE_ZEROES, 1 << 12, (0, 512), 0, 22),
            (WRITE_ZEROES, NO_HOLE | FAST_ZERO, (0, 512), 0, 95),
            (44, 0, (0, 0), 0, 22),
            // Cache, which is not offered.
            (5, 0, (0, 512), 0, 22),
        ] {
            let reply = client.ask(command, flags, range, &vec![7; payload]);
            assert_eq!(reply.error, error, "{style:?} {command} {flags} {range:?}");
        }
        assert_eq!(client.ask(WRITE_ZEROES, FAST_ZERO, (0, 512), b"").error, 0);
        assert_eq!(client.ask(READ, 0, (0, 0), b"").error, 0);
        assert_eq!(client.read(1080, 2).len(), 2);
        if style == Style::Extended {
            // A payload that the command does not have.
            client.request(READ, PAYLOAD_LEN, (0, 4096), &[1; 4096]);
            assert_eq!(client.reply(READ, (0, 4096)).error, 22);
            // Longer than 32 bits can say.
            assert_eq!(client.ask(TRIM, 0, (0, 1 << 40), b"").error, 22);
        }
        if style != Style::Simple {
            let reply = client.ask(READ, 0, (0, end), b"");
            assert!(reply.holes > 0, "a sparse image is read with holes");
            let whole = client.ask(READ, DF, (0, 300_000), b"");
            assert!(whole.holes == 0 && whole.data == reply.data[..300_000]);
            let reply = client.ask(BLOCK_STATUS, 0, (0, 0), b"");
            assert_eq!(reply.error, 22);
        }
        client.disconnect();
    }
}
