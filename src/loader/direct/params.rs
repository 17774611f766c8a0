//! The parameter block: one sector that tells the direct loader where its payload lies.
//!
//! All numbers are little endian.
//!
//! | at | size | what |
//! |---|---|---|
//! | 0 | 8 | magic `SYNTHDSK` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | flags; bit 0: there is an initrd |
//! | 16 | 16 | token, the identity of the payload |
//! | 32 | 8 + 8 | kernel: first LBA, bytes |
//! | 48 | 8 + 8 | initrd: first LBA, bytes |
//! | 64 | 8 + 4 | command line: first LBA, bytes without the NUL |
//! | 76 | 4 | message length; when not 0, the loader prints the message and stops |
//! | 80 | 400 | message, ASCII |

use super::{CMDLINE_LBA, CMDLINE_MAX};
use crate::{Error, ErrorKind, Result};

const MAGIC: &[u8; 8] = b"SYNTHDSK";
const VERSION: u32 = 1;
const HAS_INITRD: u32 = 1;
const MESSAGE_AT: usize = 80;

/// Longest message in bytes.
pub const MESSAGE_MAX: usize = 400;

/// What the direct loader is to load. LBAs count 512-byte sectors from the start of the disk.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Params {
    /// Identity of kernel, initrd and command line together. The loader starts over when it sees
    /// this block change while it loads, so the token must change whenever any of them does.
    pub token: [u8; 16],
    /// First sector of the kernel file.
    pub kernel_lba: u64,
    /// Length of the kernel file in bytes.
    pub kernel_bytes: u64,
    /// First sector and length in bytes of the initrd.
    pub initrd: Option<(u64, u64)>,
    /// Length in bytes of the command line at [`CMDLINE_LBA`], without its NUL.
    pub cmdline_bytes: u32,
    /// Instead of loading anything, print this behind `synthdisk: ` and stop.
    pub message: Option<String>,
}

impl Params {
    /// The block as it stands on the disk. A message is cut at [`MESSAGE_MAX`] bytes, and what is
    /// not printable ASCII in it becomes `?`; an empty one counts as none.
    pub fn encode(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        let (initrd_lba, initrd_bytes) = self.initrd.unwrap_or((0, 0));
        let flags = if self.initrd.is_some() { HAS_INITRD } else { 0 };
        let message = sanitise(self.message.as_deref().unwrap_or(""));
        put(0, MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &flags.to_le_bytes());
        put(16, &self.token);
        put(32, &self.kernel_lba.to_le_bytes());
        put(40, &self.kernel_bytes.to_le_bytes());
        put(48, &initrd_lba.to_le_bytes());
        put(56, &initrd_bytes.to_le_bytes());
        put(64, &CMDLINE_LBA.to_le_bytes());
        put(72, &self.cmdline_bytes.to_le_bytes());
        put(76, &(message.len() as u32).to_le_bytes());
        put(MESSAGE_AT, &message);
        block
    }

    /// Read a block back.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when `block` is shorter than 512 bytes, lacks the magic, or has
    /// lengths out of range; [`ErrorKind::Unsupported`] for another version, or a command line
    /// elsewhere than at [`CMDLINE_LBA`].
    pub fn decode(block: &[u8]) -> Result<Self> {
        let corrupt =
            |what: &str| Error::new(ErrorKind::Corrupt, format!("loader parameter block: {what}"));
        let block: &[u8; 512] =
            block.first_chunk().ok_or_else(|| corrupt("shorter than a sector"))?;
        if !block.starts_with(MAGIC) {
            return Err(corrupt("no magic"));
        }
        let version = u32_at(block, 8);
        if version != VERSION {
            let message = format!("loader parameter block of unknown version {version}");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if u64_at(block, 64) != CMDLINE_LBA {
            let message = "loader parameter block: command line at an unusual place";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let cmdline_bytes = u32_at(block, 72);
        if cmdline_bytes as usize > CMDLINE_MAX {
            return Err(corrupt("command line too long"));
        }
        let message_bytes = u32_at(block, 76) as usize;
        if message_bytes > MESSAGE_MAX {
            return Err(corrupt("message too long"));
        }
        let message = sanitise_bytes(&block[MESSAGE_AT..MESSAGE_AT + message_bytes]);
        let has_initrd = u32_at(block, 12) & HAS_INITRD != 0;
        Ok(Self {
            token: array_at(block, 16),
            kernel_lba: u64_at(block, 32),
            kernel_bytes: u64_at(block, 40),
            initrd: has_initrd.then(|| (u64_at(block, 48), u64_at(block, 56))),
            cmdline_bytes,
            message: (!message.is_empty()).then(|| message.into_iter().map(char::from).collect()),
        })
    }
}

/// Printable ASCII of at most [`MESSAGE_MAX`] bytes; one `?` for each other character.
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

/// Callers pass constant offsets within the block.
fn array_at<const N: usize>(block: &[u8; 512], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&block[at..at + N]);
    out
}

fn u32_at(block: &[u8; 512], at: usize) -> u32 {
    u32::from_le_bytes(array_at(block, at))
}

fn u64_at(block: &[u8; 512], at: usize) -> u64 {
    u64::from_le_bytes(array_at(block, at))
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
            cmdline_bytes: 33,
            message: None,
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
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
        assert_eq!(with(64, 99), Err(ErrorKind::Unsupported));
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
            cmdline_bytes in 0..=CMDLINE_MAX as u32,
            message in proptest::option::of("[ -~]{1,400}"),
        ) {
            let params = Params { token, kernel_lba, kernel_bytes, initrd, cmdline_bytes, message };
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
