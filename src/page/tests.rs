use super::*;

/// Text that tries to be markup, wherever it ends up.
const EVIL: &str =
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u{202e}\u{1b}[31m";

fn hostile() -> Guest {
    let text = || EVIL.to_owned();
    Guest {
        name: text(),
        mood: Mood::Bad,
        verdict: text(),
        sentence: text(),
        facts: vec![("Kernel", text())],
        timeline: vec![("kernel", 1.0), ("login", 3.5), ("end", 4.0)],
        disks: vec![Disk {
            name: text(),
            len: 300,
            parts: vec![
                Part { kind: PartKind::Boot, start: 0, len: 100, name: text(), origin: text() },
                Part { kind: PartKind::Data, start: 100, len: 200, name: text(), origin: text() },
            ],
        }],
        edits: vec![EditedFile { path: text(), why: text(), diff: format!("+{EVIL}\n-{EVIL}") }],
        checks: vec![Checked { name: text(), mood: Mood::Bad, word: text(), detail: text() }],
        warnings: vec![text()],
        console: Some(format!("\u{1b}[1;31m{EVIL}\u{1b}[0m\u{1b}]0;{EVIL}\u{7}\r\n").into_bytes()),
        screenshot: Some(b"\"><script>".to_vec()),
        next: vec![(text(), text())],
    }
}

#[test]
fn hostile_text_stays_text() {
    for count in [1, 3] {
        let guests = vec![hostile(); count];
        let page = render(EVIL, EVIL, &guests);
        assert_eq!(page.matches("<script").count(), 1, "only ours");
        assert_eq!(page.matches("</script").count(), 1);
        // The only image is the screenshot.
        assert_eq!(page.matches("<img").count(), count);
        assert!(!page.contains("onerror=alert(2)>\"") && !page.contains('\u{202e}'));
        assert!(!page.contains('\u{1b}') && !page.contains("src=x>"));
        for external in ["http://", "https://", "url(", "@import", "<link", "<iframe"] {
            assert!(!page.contains(external), "{external}");
        }
    }
}

#[test]
fn the_policy_names_what_is_on_the_page() {
    let page = render("x", "y", &[hostile()]);
    for (text, kind) in [(STYLE, "style-src"), (SCRIPT, "script-src")] {
        let digest = base64(&Sha256::digest(text.as_bytes()));
        // Single quotes are escaped in the attribute.
        assert!(page.contains(&format!("{kind} &#39;sha256-{digest}&#39;")), "{kind}");
        assert!(!text.contains("</"), "it would end its element");
    }
    assert!(page.contains("default-src &#39;none&#39;"));
    // Attributes with a style or a handler would not be permitted.
    assert!(!page.contains(" style=") && !page.contains(" onclick="));
}

#[test]
fn consoles_have_colours_and_no_controls() {
    let shown = |bytes: &[u8]| {
        let mut out = Html::default();
        ansi::write(&mut out, bytes);
        out.into_string()
    };
    for (bytes, expected) in [
        (&b"\x1b[0;32m  OK  \x1b[0m a\r\n"[..], "<span class=\"c2\">  OK  </span> a\n"),
        (b"\x1b[1;91m!\x1b[22;39m.", "<span class=\"c9 b\">!</span>."),
        (b"\x1b[2J\x1b[1;1Ha\x1b]0;title\x07b\x1b(Bc", "abc"),
        (b"ab\x08c\x07", "ac"),
        (b"\x1b[38;5;196mx", "x"),
        (b"\x1b[", ""),
        (b"\x1b", ""),
        (b"\x1b]never ends\nx", "\nx"),
        (b"\xff\xfe", "\u{fffd}\u{fffd}"),
        (b"a\xc2\x9bb", "a\u{fffd}b"),
    ] {
        assert_eq!(shown(bytes), expected, "{bytes:?}");
    }
    let long = format!("\u{1b}[{}m", "1;".repeat(1000));
    assert_eq!(shown(long.as_bytes()), "");
}

#[test]
fn base64_as_in_the_rfc() {
    let vectors = [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
    ];
    for (plain, encoded) in vectors {
        assert_eq!(base64(plain.as_bytes()), encoded);
    }
}
