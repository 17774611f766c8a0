use super::*;

fn lines(parts: &[&[u8]]) -> (Vec<String>, String) {
    let mut assembled = Lines::default();
    let mut out = Vec::new();
    for part in parts {
        assembled.feed(part, |line| out.push(line.to_owned()));
    }
    (out, assembled.partial())
}

#[test]
fn a_stream_becomes_lines() {
    let cases: [(&[u8], &[&str], &str); 12] = [
        (b"one\r\ntwo\nthree", &["one", "two"], "three"),
        (b"[\x1b[0;32m  OK  \x1b[0m] Started\r\n", &["[  OK  ] Started"], ""),
        (b"50%\r100%\r\n", &["50%", "100%"], ""),
        (b"\x1b[2J\x1b[1;1Hmenu\x1b[5;3Hentry", &["menu"], "entry"),
        (b"\x1b]0;a title\x07text", &[], "text"),
        (b"\x1b]0;a title\x1b\\text", &[], "text"),
        (b"\x1b]0;cut off\nnext", &[], "next"),
        (b"\x1bc\x1b(Blogin: ", &[], "login: "),
        (b"pass\x08\x08st\n", &["past"], ""),
        (b"nul\0 and bell\x07\n", &["nul and bell"], ""),
        (b"gr\xc3\xbc\xc3\x9f\xff\n", &["grüß\u{fffd}"], ""),
        (b"\x1b[?25l\x1b[1mbold", &[], "bold"),
    ];
    for (bytes, complete, partial) in cases {
        let whole = lines(&[bytes]);
        assert_eq!(whole.0, complete, "{:?}", String::from_utf8_lossy(bytes));
        assert_eq!(whole.1, partial, "{:?}", String::from_utf8_lossy(bytes));
        // The result is the same for every division into pieces.
        let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(lines(&bytewise), whole, "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_line_without_end_is_broken() {
    let (out, rest) = lines(&[&vec![b'x'; 3 * MAX_LINE + 1]]);
    assert_eq!((out.len(), rest.len()), (3, 1));
}

fn watch(expect: &str) -> Watch {
    Watch::new(Regex::new(expect).unwrap(), None)
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_prompt_is_judged_once_it_stands() {
    let mut watch = watch("login: ?$");
    assert_eq!(watch.feed(b"[    0.000000] Linux version 6.1.0\r\n", SECOND), None);
    assert_eq!(watch.kernel_at(), Some(SECOND));
    assert_eq!(watch.feed(b"web1 login: ", 2 * SECOND), None);
    assert_eq!(watch.quiet(), Some(Finding::Matched("web1 login:".into())));
    assert_eq!(watch.tail(), ["[    0.000000] Linux version 6.1.0", "web1 login: "]);
}

#[test]
fn the_first_finding_counts() {
    let mut w = watch("ready");
    let found = w.feed(b"a\nready now\nKernel panic - not syncing: x\n", SECOND);
    assert_eq!(found, Some(Finding::Matched("ready now".into())));
    // A panic can be the expected text.
    let found = watch("panic").feed(b"Kernel panic - not syncing: x\n", SECOND);
    assert!(matches!(found, Some(Finding::Matched(_))));
}

#[test]
fn dead_ends_are_known() {
    let cases = [
        (
            "[ 1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\n",
            "kernel panic: VFS: Unable to mount root fs",
        ),
        ("Kernel panic - not syncing\n", "kernel panic: no reason given"),
        ("synthdisk: disk read error at LBA 0x10\r\n", "the boot loader stopped: disk read error"),
        ("ALERT! missing\n(initramfs) ", "the initramfs gave up and opened a shell"),
        ("You are in emergency mode. After\n", "systemd entered emergency mode"),
        ("grub rescue> ", "GRUB did not find its files"),
    ];
    for (text, why) in cases {
        let mut watch = watch("never");
        let found = watch.feed(text.as_bytes(), SECOND).or_else(|| watch.quiet());
        let Some(Finding::Hopeless(reason)) = found else { panic!("{text}: {found:?}") };
        assert!(reason.starts_with(why), "{text}: {reason}");
    }
    for harmless in [
        "synthdisk: loading Linux\r\n",
        "Linux version 6\nsynthdisk: a daemon of the guest's own\n",
        "Linux version 6\nNo bootable device\n",
        "a line that says nothing\n",
    ] {
        let mut watch = watch("never");
        assert_eq!(watch.feed(harmless.as_bytes(), SECOND), None, "{harmless}");
    }
}

#[test]
fn silence_is_described() {
    let mut w = watch("never");
    assert!(w.silence(SECOND).contains("stayed empty"));
    w.feed(b"Linux version 6\r\nLinux version 6\r\nstuck here\r\n\r\n", SECOND);
    let text = w.silence(31 * SECOND);
    assert_eq!(text, "last line, 30 s before: stuck here; the kernel started 2 times");
}

#[test]
fn what_controls_a_terminal_is_not_in_a_line() {
    let mut lines = Lines::default();
    let mut found = Vec::new();
    let console = "a\u{9b}31mred\u{90}x\n\u{202e}desrever\u{2066}\nb\tc\x1b[1mbold\x1b[0m\n";
    lines.feed(console.as_bytes(), |line| found.push(line.to_owned()));
    assert_eq!(found, ["a\\u{9b}31mred\\u{90}x", "\\u{202e}desrever\\u{2066}", "b\tcbold"]);
    lines.feed("login\u{85}: ".as_bytes(), |_| panic!("no line has ended"));
    assert_eq!(lines.partial(), "login\\u{85}: ");
}
