//! How serving begins and ends, and what is left of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::client::*;
use crate::common::overlay::wait_until;
use crate::common::process::{expect_failure, run};
use crate::common::serve::Served;
use crate::common::tiny::{Tiny, noise};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn signals_end_it_cleanly() {
    let tiny = Tiny::new();
    let dir = tempfile::tempdir().unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let overlay = dir.path().join(signal.as_str()).to_string_lossy().into_owned();
        let served = Served::new(&["--overlay", &overlay], &tiny.image);
        assert_eq!(served.printed().lines().next(), Some(&*served.uri("")));
        assert_eq!(served.socket().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut client = Client::open(&served.socket(), "", Style::Extended);
        client.write(70 << 20, &noise(100_000, 1));
        served.end_by(signal);
        assert!(!served.socket().exists(), "the socket stays after {signal}");
        client.expect_end();
        run("qemu-img", &["check", "-q", &overlay]);
        drop(served);
        // It is free, and complete.
        let served = Served::new(&["--overlay", &overlay], &tiny.image);
        let mut client = Client::open(&served.socket(), "", Style::Simple);
        assert_eq!(client.read(70 << 20, 100_000), noise(100_000, 1));
    }
}

#[test]
fn nothing_is_left_when_a_process_is_killed() {
    let tiny = Tiny::new();
    for kill_server in [false, true] {
        let served = Served::new(&[], &tiny.image);
        let mut client = Client::open(&served.socket(), "", Style::Simple);
        let victim = if kill_server { served.server() } else { served.keeper() };
        kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
        served.wait();
        wait_until("the socket", || !served.socket().exists());
        client.expect_end();
    }
}

#[test]
fn what_exists_is_not_replaced() {
    let tiny = Tiny::new();
    let served = Served::new(&[], &tiny.image);
    let image = tiny.image.to_string_lossy().into_owned();
    let refused =
        |socket: &Path| expect_failure(&["serve", "--nbd", &socket.to_string_lossy(), &image], 1);
    let sentence = refused(&served.socket());
    assert!(sentence.contains("exists; remove it if no server uses it"), "{sentence}");
    // The server that has it goes on.
    Client::open(&served.socket(), "", Style::Simple).disconnect();
    let file = tiny.file("a file");
    fs::write(&file, "precious").unwrap();
    refused(&file);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    let nowhere = refused(&tiny.file("no/such/dir"));
    assert!(nowhere.contains("cannot make the socket"), "{nowhere}");
}

#[test]
fn a_guest_that_cannot_be_planned_leaves_no_socket() {
    let tiny = Tiny::new();
    let empty = tiny.file("empty");
    fs::write(&empty, "").unwrap();
    let socket = tiny.file("s");
    let (socket_arg, empty) = (socket.to_string_lossy(), empty.to_string_lossy());
    expect_failure(&["serve", "--nbd", &socket_arg, &empty], 1);
    assert!(!socket.exists());
    let usage = expect_failure(
        &["serve", "--nbd", &socket_arg, "--read-only", "--hostname", "x", &empty],
        2,
    );
    assert!(usage.contains("needs a writable overlay"), "{usage}");
}
