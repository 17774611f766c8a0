//! The parameter block: one sector that tells the direct loader where its payload is.
//!
//! `docs/direct-loader.md` has the same table of fields; a test compares them. All numbers are
//! little endian.

use super::code::CMDLINE_MAX;
use crate::{Error, ErrorKind, Result};

/// A field of the block: offset and length in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Field {
    name: &'static str,
    at: usize,
    len: usize,
}

const fn field(name: &'static str, at: usize, len: usize) -> Field {
    Field { name, at, len }
}

const MAGIC: Field = field("magic", 0, 8);
const VERSION: Field = field("version", 8, 4);
const FLAGS: Field = field("flags", 12, 4);
const TOKEN: Field = field("token", 16, 16);
const KERNEL_LBA: Field = field("kernel_lba", 32, 8);
const KERNEL_BYTES: Field = field("kernel_bytes", 40, 8);
const INITRD_LBA: Field = field("initrd_lba", 48, 8);
const INITRD_BYTES: Field = field("initrd_bytes", 56, 8);
const CMDLINE_START: Field = field("cmdline_lba", 64, 8);
const CMDLINE_BYTES: Field = field("cmdline_bytes", 72, 4);
const MESSAGE_BYTES: Field = field("message_bytes", 76, 4);
const MESSAGE: Field = field("message", 80, MESSAGE_MAX);

const MAGIC_VALUE: &[u8; 8] = b"SYNTHDSK";
const VERSION_VALUE: u32 = 1;
const HAS_INITRD: u32 = 1;

/// Longest message in bytes.
pub const MESSAGE_MAX: usize = 400;

/// What the direct loader loads. LBAs count 512-byte sectors from the start of the disk.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Params {
    /// Identifies kernel, initrd and command line together. The loader starts over if this block
    /// changes while it loads, so the token must change whenever any of them does.
    pub token: [u8; 16],
    /// First sector of the kernel file.
    pub kernel_lba: u64,
    /// Length of the kernel file in bytes.
    pub kernel_bytes: u64,
    /// First sector and length in bytes of the initrd.
    pub initrd: Option<(u64, u64)>,
    /// First sector of the command line.
    pub cmdline_lba: u64,
    /// Length in bytes of the command line, without its NUL.
    pub cmdline_bytes: u32,
    /// Instead of loading anything, print this after `synthdisk: ` and stop.
    pub message: Option<String>,
}

impl Params {
    /// Encodes the block for the disk. A message is truncated to [`MESSAGE_MAX`] bytes, and
    /// characters other than printable ASCII become `?`; an empty message counts as none.
    pub fn encode(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put = |field: Field, bytes: &[u8]| {
            debug_assert!(bytes.len() <= field.len, "{}", field.name);
            block[field.at..field.at + bytes.len()].copy_from_slice(bytes);
        };
        let (initrd_lba, initrd_bytes) = self.initrd.unwrap_or((0, 0));
        let flags = if self.initrd.is_some() { HAS_INITRD } else { 0 };
        let message = sanitise(self.message.as_deref().unwrap_or(""));
        put(MAGIC, MAGIC_VALUE);
        put(VERSION, &VERSION_VALUE.to_le_bytes());
        put(FLAGS, &flags.to_le_bytes());
        put(TOKEN, &self.token);
        put(KERNEL_LBA, &self.kernel_lba.to_le_bytes());
        put(KERNEL_BYTES, &self.kernel_bytes.to_le_bytes());
        put(INITRD_LBA, &initrd_lba.to_le_bytes());
        put(INITRD_BYTES, &initrd_bytes.to_le_bytes());
        put(CMDLINE_START, &self.cmdline_lba.to_le_bytes());
        put(CMDLINE_BYTES, &self.cmdline_bytes.to_le_bytes());
        put(MESSAGE_BYTES, &(message.len() as u32).to_le_bytes());
        put(MESSAGE, &message);
        block
    }

    /// Decodes a block.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if `block` is shorter than 512 bytes, lacks the magic, or has lengths
    /// out of range; [`ErrorKind::Unsupported`] for another version.
    pub fn decode(block: &[u8]) -> Result<Self> {
        let corrupt =
            |what: &str| Error::new(ErrorKind::Corrupt, format!("loader parameter block: {what}"));
        let block: &[u8; 512] =
            block.first_chunk().ok_or_else(|| corrupt("shorter than a sector"))?;
        if !block.starts_with(MAGIC_VALUE) {
            return Err(corrupt("no magic"));
        }
        let version = u32_of(block, VERSION);
        if version != VERSION_VALUE {
            let message = format!("loader parameter block: unknown version {version}");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let cmdline_bytes = u32_of(block, CMDLINE_BYTES);
        if cmdline_bytes as usize > CMDLINE_MAX {
            return Err(corrupt("command line too long"));
        }
        let message_bytes = u32_of(block, MESSAGE_BYTES) as usize;
        if message_bytes > MESSAGE_MAX {
            return Err(corrupt("message too long"));
        }
        let message = sanitise_bytes(&block[MESSAGE.at..MESSAGE.at + message_bytes]);
        let has_initrd = u32_of(block, FLAGS) & HAS_INITRD != 0;
        Ok(Self {
            token: array_of(block, TOKEN),
            kernel_lba: u64_of(block, KERNEL_LBA),
            kernel_bytes: u64_of(block, KERNEL_BYTES),
            initrd: has_initrd.then(|| (u64_of(block, INITRD_LBA), u64_of(block, INITRD_BYTES))),
            cmdline_lba: u64_of(block, CMDLINE_START),
            cmdline_bytes,
            message: (!message.is_empty()).then(|| message.into_iter().map(char::from).collect()),
        })
    }
}

/// Printable ASCII of at most [`MESSAGE_MAX`] bytes; each other character becomes one `?`.
fn sanitise(text: &str) -> Vec<u8> {
    let printable = |c: char| match c {
        ' '..='~' => c as u8,
        '\t' | '\n' | '\r' => b' ',
        _ => b'?',
    };
    text.chars().map(printable).take(MESSAGE_MAX).collect()
}

fn sanitise_bytes(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|&b| if matches!(b, b' '..=b'~') { b } else { b'?' }).collect()
}

/// Callers pass fields of `N` bytes.
fn array_of<const N: usize>(block: &[u8; 512], field: Field) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&block[field.at..field.at + field.len]);
    out
}

fn u32_of(block: &[u8; 512], field: Field) -> u32 {
    u32::from_le_bytes(array_of(block, field))
}

fn u64_of(block: &[u8; 512], field: Field) -> u64 {
    u64::from_le_bytes(array_of(block, field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Params {
        Params {
            token: *b"0123456789abcdef",
            kernel_lba: 128,
            kernel_bytes: 0x12_3456_789a,
            initrd: Some((0x1_0000_0001, 77)),
            cmdline_lba: 129,
            cmdline_bytes: 33,
            message: None,
        }
    }

    const FIELDS: [Field; 12] = [
        MAGIC,
        VERSION,
        FLAGS,
        TOKEN,
        KERNEL_LBA,
        KERNEL_BYTES,
        INITRD_LBA,
        INITRD_BYTES,
        CMDLINE_START,
        CMDLINE_BYTES,
        MESSAGE_BYTES,
        MESSAGE,
    ];

    #[test]
    fn the_fields_follow_each_other() {
        let mut end = 0;
        for field in FIELDS {
            assert_eq!(field.at, end, "{}", field.name);
            end += field.len;
        }
        assert_eq!(end, 480);
    }

    #[test]
    fn the_document_has_the_same_fields() {
        let text = include_str!("../../../docs/direct-loader.md");
        let (_, table) = text.split_once("| at | size | name | what |\n").expect("the table");
        let rows: Vec<Vec<&str>> = table
            .lines()
            .skip(1)
            .take_while(|line| line.starts_with('|'))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let number = |text: &str| text.parse::<usize>().expect("offsets and sizes are numbers");
        let (last, rows) = rows.split_last().expect("the table has rows");
        let documented: Vec<_> =
            rows.iter().map(|r| (number(r[0]), number(r[1]), r[2].trim_matches('`'))).collect();
        assert_eq!(documented, FIELDS.map(|f| (f.at, f.len, f.name)));
        assert_eq!((number(last[0]), number(last[1]), last[3]), (480, 512 - 480, "zero"));
    }

    /// The values of `.set NAME, VALUE` in the loader's source.
    fn assembled(name: &str) -> String {
        let source = include_str!("loader.S");
        let mut lines = source.lines().filter_map(|line| line.trim().strip_prefix(".set "));
        let found = lines.find_map(|line| {
            let (key, value) = line.split('#').next()?.split_once(',')?;
            (key == name).then(|| value.trim().to_owned())
        });
        found.unwrap_or_else(|| panic!("loader.S does not set {name}"))
    }

    #[test]
    fn the_loader_has_the_same_fields() {
        // The loader uses the token only when it compares the whole block.
        for field in FIELDS.iter().filter(|f| **f != TOKEN) {
            let name = format!("P_{}", field.name.to_uppercase());
            assert_eq!(assembled(&name), format!("PARAMS + {}", field.at), "{name}");
        }
    }

    #[test]
    fn the_efi_loader_has_the_same_fields() {
        let source = include_str!("efi/loader.c");
        let (_, fields) = source.split_once("struct params {\n").expect("the structure");
        let mut at = 0;
        let mut found = Vec::new();
        for line in fields.lines().take_while(|line| *line != "};") {
            let (kind, name) = line.trim().trim_end_matches(';').split_once(' ').expect("a field");
            let unit = match kind {
                "u8" => 1,
                "u32" => 4,
                "u64" => 8,
                other => panic!("unknown type {other}"),
            };
            let (name, count) = name.split_once('[').unwrap_or((name, "1"));
            let count = count.trim_end_matches(']');
            let len =
                unit * if count == "MESSAGE_MAX" { MESSAGE_MAX } else { count.parse().unwrap() };
            found.push((at, len, name));
            at += len;
        }
        assert_eq!(found.pop(), Some((480, 32, "zero")));
        assert_eq!(found, FIELDS.map(|f| (f.at, f.len, f.name)));
    }

    #[test]
    fn the_loader_has_the_same_limits_and_places() {
        use crate::loader::direct::{INITRD_MAX, KERNEL_MAX, PARAMS_LBA, STAGE2_BYTES, STAGE2_LBA};
        for (name, value) in [
            ("STAGE2_LBA", STAGE2_LBA),
            ("STAGE2_SECT", STAGE2_BYTES as u64 / 512),
            ("PARAMS_LBA", PARAMS_LBA),
            ("MESSAGE_MAX", MESSAGE_MAX as u64),
            ("CMDLINE_MAX", CMDLINE_MAX as u64),
            ("KERNEL_MAX", KERNEL_MAX),
            ("INITRD_MAX", INITRD_MAX),
        ] {
            let text = assembled(name);
            let found = match text.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => text.parse(),
            };
            assert_eq!(found, Ok(value), "{name}");
        }
    }

    #[test]
    fn the_bytes_are_where_they_always_were() {
        let block = Params { message: Some("no kernel".into()), ..sample() }.encode();
        let want: [(usize, &[u8]); 11] = [
            (0, b"SYNTHDSK\x01\0\0\0"),
            (12, b"\x01\0\0\0"),
            (16, b"0123456789abcdef"),
            (32, b"\x80\0\0\0\0\0\0\0"),
            (40, b"\x9a\x78\x56\x34\x12\0\0\0"),
            (48, b"\x01\0\0\0\x01\0\0\0"),
            (56, b"\x4d\0\0\0\0\0\0\0"),
            (64, b"\x81\0\0\0\0\0\0\0"),
            (72, b"\x21\0\0\0"),
            (76, b"\x09\0\0\0no kernel\0"),
            (480, &[0; 32]),
        ];
        for (at, bytes) in want {
            assert_eq!(&block[at..at + bytes.len()], bytes, "at {at}");
        }
    }

    #[test]
    fn messages_are_made_printable_and_cut() {
        let shown = |text: &str| {
            let block = Params { message: Some(text.into()), ..sample() }.encode();
            Params::decode(&block).unwrap().message
        };
        assert_eq!(shown("a\u{e9}\x07b\nc").as_deref(), Some("a??b c"));
        assert_eq!(shown(&"x".repeat(1000)).unwrap().len(), MESSAGE_MAX);
        assert_eq!(shown(""), None);
    }

    #[test]
    fn bad_blocks_are_refused() {
        let good = sample().encode();
        let with = |at: usize, byte: u8| {
            let mut block = good;
            block[at] = byte;
            Params::decode(&block).map_err(|e| e.kind())
        };
        assert_eq!(with(0, b's'), Err(ErrorKind::Corrupt));
        assert_eq!(with(8, 2), Err(ErrorKind::Unsupported));
        assert_eq!(with(73, 16), Err(ErrorKind::Corrupt));
        assert_eq!(with(77, 2), Err(ErrorKind::Corrupt));
        assert_eq!(Params::decode(&good[..511]).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(Params::decode(&[]).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            token: [u8; 16],
            kernel_lba: u64,
            kernel_bytes: u64,
            initrd: Option<(u64, u64)>,
            cmdline_lba: u64,
            cmdline_bytes in 0..=CMDLINE_MAX as u32,
            message in proptest::option::of("[ -~]{1,400}"),
        ) {
            let files = Params { token, kernel_lba, kernel_bytes, initrd, ..Params::default() };
            let params = Params { cmdline_lba, cmdline_bytes, message, ..files };
            prop_assert_eq!(Params::decode(&params.encode()).unwrap(), params);
        }

        #[test]
        fn no_block_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Params::decode(&bytes);
            let mut block = sample().encode();
            for (to, from) in block[12..].iter_mut().zip(&bytes) {
                *to = *from;
            }
            let _ = Params::decode(&block);
        }
    }
}
