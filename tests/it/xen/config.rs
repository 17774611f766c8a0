//! The grammar of domU configs, in tables.

use synthdisk::ErrorKind;
use synthdisk::xen::{Config, MAX_CONFIG_BYTES, Value};

/// A value in a spelling that tables can hold: strings quoted, numbers bare, lists in brackets.
fn show(value: &Value) -> String {
    match value {
        Value::String(s) => format!("{s:?}"),
        Value::Number(n) => n.value.to_string(),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|i| show(&i.value)).collect();
            format!("[{}]", items.join(" "))
        }
    }
}

fn all(text: &str) -> String {
    let config = Config::parse(text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
    let settings: Vec<String> =
        config.iter().map(|(name, a)| format!("{name}@{}={}", a.line, show(&a.value))).collect();
    settings.join(" ")
}

#[test]
fn accepted() {
    for (text, expected) in [
        ("", ""),
        ("\n\n;;\n", ""),
        ("# comment", ""),
        ("# comment\nname='a'#more", "name@2=\"a\""),
        ("name=\"h0\"\ntype=\"hvm\"\n", "name@1=\"h0\" type@2=\"hvm\""),
        ("name=\"h0\"; type=\"hvm\"", "name@1=\"h0\" type@1=\"hvm\""),
        ("a=10;b=0x1F;c=017;d=0;e=007", "a@1=10 b@1=31 c@1=15 d@1=0 e@1=7"),
        ("a = 'x # y'", "a@1=\"x # y\""),
        (r#"a = 'it\'s "q"'; b = "it's \"q\"""#, r#"a@1="it's \"q\"" b@1="it's \"q\"""#),
        (r"a = '\\\a\b\f\n\r\t\v\x41\101\60'", r#"a@1="\\\u{7}\u{8}\u{c}\n\r\t\u{b}AA0""#),
        (r"a = '\xc3\xa4'", "a@1=\"ä\""),
        ("a = []", "a@1=[]"),
        ("a = [ ]", "a@1=[]"),
        ("a = [\n\n]", "a@1=[]"),
        ("a = [ 'x' ]", "a@1=[\"x\"]"),
        ("a = [ 'x', ]", "a@1=[\"x\"]"),
        ("a = [\n 'x', # one\n 2,\n\n]\nb=1", "a@1=[\"x\" 2] b@6=1"),
        ("a = [ 'x'\n, 'y'\n]", "a@1=[\"x\" \"y\"]"),
        (
            "vnuma = [ [\"pnode=0\",\"size=512\",\"vcpus=0-4\",\"vdistances=10,20\"] ]",
            "vnuma@1=[[\"pnode=0\" \"size=512\" \"vcpus=0-4\" \"vdistances=10,20\"]]",
        ),
        ("a=[[],[[]],]", "a@1=[[] [[]]]"),
        ("a=1\na=2", "a@2=2"),
        ("a='x'\na+='y'\na += 'z'", "a@1=\"xyz\""),
        ("a=['x']\na+=['y',\n'z']", "a@1=[\"x\" \"y\" \"z\"]"),
        ("a+=['x']", "a@1=[\"x\"]"),
        ("a=\\\n  'x'", "a@1=\"x\""),
        ("a='x\\\ny'\nb=1", "a@1=\"xy\" b@3=1"),
        ("a='x'\r\nb='y'\r\n", "a@1=\"x\" b@2=\"y\""),
        ("\u{feff}a='x'", "a@1=\"x\""),
        ("a='käse'", "a@1=\"käse\""),
        ("_a1 = 1; A = 2", "A@1=2 _a1@1=1"),
    ] {
        assert_eq!(all(text), expected, "{text:?}");
    }
}

#[test]
fn refused() {
    use ErrorKind::{Corrupt, Unsupported};
    for (text, kind, line, words) in [
        ("a = ", Corrupt, 1, "value"),
        ("a", Corrupt, 1, "'a'"),
        ("a = 'x", Corrupt, 1, "no end"),
        ("a = 'x\n'", Corrupt, 1, "no end"),
        ("\na = [ 'x'", Corrupt, 2, "never closed"),
        ("a = [ 'x' 'y' ]", Corrupt, 1, "',' or ']'"),
        ("a = [ , ]", Corrupt, 1, "','"),
        ("a = 'x' 'y'", Corrupt, 1, "end of the line"),
        ("a = 1 2", Corrupt, 1, "'2'"),
        ("a = 12ab", Corrupt, 1, "'12ab'"),
        ("a = 08", Corrupt, 1, "'08'"),
        ("a = 0x", Corrupt, 1, "'0x'"),
        ("a = 99999999999999999999", Corrupt, 1, "not a number"),
        ("a = -1", Corrupt, 1, "'-'"),
        ("= 1", Corrupt, 1, "'='"),
        ("1 = 1", Corrupt, 1, "'1'"),
        ("'a' = 1", Corrupt, 1, "\"a\""),
        ("a = ]", Corrupt, 1, "']'"),
        (r"a = '\q'", Corrupt, 1, "escape"),
        (r"a = '\x4'", Corrupt, 1, "hex"),
        (r"a = '\400'", Corrupt, 1, "\\377"),
        (r"a = '\0'", Corrupt, 1, "NUL"),
        (r"a = '\xff'", Corrupt, 1, "UTF-8"),
        ("a = '\0'", Corrupt, 1, "NUL"),
        ("a = \0", Corrupt, 1, "\\0"),
        ("a = 1\na += 2", Corrupt, 2, "numbers"),
        ("a = 'x'\n\na += ['y']", Corrupt, 3, "line 1"),
        ("import os, re", Unsupported, 1, "'import'"),
        ("\nfrom os import path", Unsupported, 2, "'from'"),
        ("def f(x):\n  return x", Unsupported, 1, "'def'"),
        ("name='x'\nif vmid == 1:\n  a = 1", Unsupported, 2, "'if'"),
        ("for i in range(3):", Unsupported, 1, "'for'"),
        ("print('x')", Unsupported, 1, "'print'"),
        ("raise 'x'", Unsupported, 1, "'raise'"),
        ("os.system('x')", Unsupported, 1, "'os'"),
        ("a = int(vmid)", Unsupported, 1, "'int'"),
        ("a = os.uname()", Unsupported, 1, "'os'"),
        ("a = name", Corrupt, 1, "quotes"),
        ("a = [name, 'x']", Corrupt, 1, "'name'"),
        ("a = name + 1", Unsupported, 1, "'name' is Python"),
        ("a = name if x else y", Unsupported, 1, "Python"),
        ("a = 'x' b", Corrupt, 1, "found 'b'"),
        ("a = True", Unsupported, 1, "write 1"),
        ("a = False", Unsupported, 1, "write 0"),
        ("a = None", Unsupported, 1, "'None'"),
        ("a = 'vm%d' % vmid", Unsupported, 1, "'%'"),
        ("a = 'x' + 'y'", Unsupported, 1, "'+'"),
        ("a = 'x' if b else 'y'", Unsupported, 1, "'if'"),
        ("a = 'x'.upper()", Unsupported, 1, "'.'"),
        ("a = ('x', 'y')", Unsupported, 1, "'('"),
        ("a = { 'x': 1 }", Unsupported, 1, "'{'"),
        ("a = [ 'x' for y in z ]", Unsupported, 1, "'for'"),
        ("a = [ 'x' + y ]", Unsupported, 1, "'+'"),
        ("a = [\n'x',\n'%s' % y ]", Unsupported, 3, "'%'"),
        ("a = ['x'][0]", Unsupported, 1, "'['"),
        ("vif[0] = 'x'", Unsupported, 1, "'vif'"),
    ] {
        let error = Config::parse(text).expect_err(text);
        let message = error.to_string();
        assert_eq!(error.kind(), kind, "{text:?}: {message}");
        assert!(message.starts_with(&format!("line {line}: ")), "{text:?}: {message}");
        assert!(message.contains(words), "{text:?}: {message}");
        assert!(message.len() < 300, "{text:?}: {message}");
    }
}

#[test]
fn numbers_are_strings_too() {
    let config = Config::parse("a = 007; b = '0x10'; c = 'x'").unwrap();
    let value = |name| &config.get(name).unwrap().value;
    assert_eq!((value("a").as_str(), value("a").as_u64()), (Some("007"), Some(7)));
    assert_eq!((value("b").as_str(), value("b").as_u64()), (Some("0x10"), Some(16)));
    assert_eq!((value("c").as_str(), value("c").as_u64()), (Some("x"), None));
}

#[test]
fn encodings() {
    let latin1 = b"# gr\xfc\xdfe\nname = 'web1'\n";
    assert!(Config::parse_bytes(latin1).is_ok(), "comments may be in any encoding");
    for bytes in [&b"name = 'w\xfcb'"[..], b"name = \xfc", b"n\xfcme = 'x'", b"\n\nn='\xff'"] {
        let error = Config::parse_bytes(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("UTF-8"), "{error}");
    }
}

#[test]
fn hostile() {
    let deep = format!("a = {}", "[".repeat(MAX_CONFIG_BYTES - 4));
    assert_eq!(Config::parse(&deep).unwrap_err().kind(), ErrorKind::Unsupported);
    let balanced = format!("a = {}{}", "[".repeat(17), "]".repeat(17));
    assert_eq!(Config::parse(&balanced).unwrap_err().kind(), ErrorKind::Unsupported);
    let allowed = format!("a = {}{}", "[".repeat(16), "]".repeat(16));
    assert!(Config::parse(&allowed).is_ok());

    for unit in ["[", "]", "a=[],", "0,", ";", "\n", "#", "'", "\\\n", "a+='x';", "a=1;", "[],"] {
        let text = unit.repeat(MAX_CONFIG_BYTES / unit.len());
        let _ = Config::parse(&text);
        let _ = Config::parse(&format!("a=[{}", &text[..text.len() - 3]));
    }
    let big = " ".repeat(MAX_CONFIG_BYTES + 1);
    assert_eq!(Config::parse(&big).unwrap_err().kind(), ErrorKind::TooLarge);
    assert!(Config::parse_bytes(&vec![0; 1000]).is_err());
    assert!(Config::parse_bytes(&vec![0xff; 1000]).is_err());
    let name = "a".repeat(100_000);
    assert!(Config::parse(&name).unwrap_err().to_string().len() < 300);
}
