//! An NBD client that sends exactly what a test asks for.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISCONNECT: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const WRITE_ZEROES: u16 = 6;
pub const BLOCK_STATUS: u16 = 7;

pub const FUA: u16 = 1;
pub const NO_HOLE: u16 = 2;
pub const DF: u16 = 4;
pub const REQ_ONE: u16 = 8;
pub const FAST_ZERO: u16 = 16;
pub const PAYLOAD_LEN: u16 = 32;

pub const ACK: u32 = 1;
pub const INFO: u32 = 3;

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;

/// The kinds of headers and replies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Style {
    Simple,
    Structured,
    Extended,
}

pub const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

pub struct Client {
    pub stream: UnixStream,
    style: Style,
    cookie: u64,
    /// Length and flags of the export.
    pub len: u64,
    pub flags: u16,
}

/// What a request was answered with.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reply {
    pub error: u32,
    /// The data of a read.
    pub data: Vec<u8>,
    /// Lengths and status.
    pub extents: Vec<(u64, u64)>,
    /// Number of chunks that were holes.
    pub holes: usize,
}

impl Client {
    /// Connects, and exchanges greetings.
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("the server listens");
        // A server that does not answer fails the test, even if the machine is busy.
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let mut client = Self { stream, style: Style::Simple, cookie: 0, len: 0, flags: 0 };
        assert_eq!(client.array(), *b"NBDMAGIC");
        assert_eq!(client.array(), *b"IHAVEOPT");
        assert_eq!(client.array(), [0, 3]);
        client.send(&3u32.to_be_bytes());
        client
    }

    /// Connects to an export in a style; block status can be asked for unless the style is simple.
    pub fn open(socket: &Path, name: &str, style: Style) -> Self {
        let mut client = Self::connect(socket);
        client.choose(style);
        if style != Style::Simple {
            let query = [&text(name)[..], &1u32.to_be_bytes(), &text("base:allocation")].concat();
            let replies = client.option(10, &query);
            assert_eq!((replies.len(), replies[0].0), (2, 4), "{replies:?}");
        }
        client.go(name).expect("there is such an export");
        client
    }

    pub fn choose(&mut self, style: Style) {
        match style {
            Style::Simple => {}
            Style::Structured => assert_eq!(self.option(8, b""), [(ACK, Vec::new())]),
            Style::Extended => assert_eq!(self.option(11, b""), [(ACK, Vec::new())]),
        }
        self.style = style;
    }

    /// Begins with an export; the error without one.
    pub fn go(&mut self, name: &str) -> Result<(), u32> {
        let replies = self.option(7, &[&text(name)[..], &[0, 0]].concat());
        let (kind, content) = &replies[0];
        if *kind != INFO {
            return Err(*kind);
        }
        self.len = u64::from_be_bytes(content[2..10].try_into().unwrap());
        self.flags = u16::from_be_bytes(content[10..12].try_into().unwrap());
        Ok(())
    }

    /// Sends an option; all replies up to the last one.
    pub fn option(&mut self, number: u32, content: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(number, content);
        let mut replies = Vec::new();
        loop {
            assert_eq!(u64::from_be_bytes(self.array()), 0x0003_e889_0455_65a9);
            assert_eq!(u32::from_be_bytes(self.array()), number);
            let kind = u32::from_be_bytes(self.array());
            let len = u32::from_be_bytes(self.array());
            let content = self.bytes(len as usize);
            replies.push((kind, content));
            if kind == ACK || kind >= 1 << 31 {
                return replies;
            }
        }
    }

    pub fn send_option(&mut self, number: u32, content: &[u8]) {
        let len = (content.len() as u32).to_be_bytes();
        self.send(
            &[&OPTION_MAGIC.to_be_bytes()[..], &number.to_be_bytes(), &len, content].concat(),
        );
    }

    /// Sends a request; `payload` follows it.
    pub fn request(&mut self, command: u16, flags: u16, (offset, len): (u64, u64), payload: &[u8]) {
        self.cookie += 1;
        let extended = self.style == Style::Extended;
        let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
        let flags = if extended && command == WRITE { flags | PAYLOAD_LEN } else { flags };
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        match extended {
            true => bytes.extend(len.to_be_bytes()),
            false => bytes.extend((len as u32).to_be_bytes()),
        }
        bytes.extend(payload);
        self.send(&bytes);
    }

    /// The reply to the request that was sent last, for `(offset, len)`.
    pub fn reply(&mut self, command: u16, (offset, len): (u64, u64)) -> Reply {
        let mut reply = Reply::default();
        if command == READ {
            reply.data = vec![0xee; len as usize];
        }
        let mut covered = 0;
        loop {
            let magic = u32::from_be_bytes(self.array());
            if magic == 0x6744_6698 {
                assert_ne!(self.style, Style::Extended);
                reply.error = u32::from_be_bytes(self.array());
                assert_eq!(u64::from_be_bytes(self.array()), self.cookie);
                if command == READ && reply.error == 0 {
                    assert_eq!(self.style, Style::Simple);
                    reply.data = self.bytes(len as usize);
                }
                return reply;
            }
            let expected = if self.style == Style::Extended { 0x6e8a_278c } else { 0x668e_33ef };
            assert_eq!(magic, expected);
            let flags = u16::from_be_bytes(self.array());
            let kind = u16::from_be_bytes(self.array());
            assert_eq!(u64::from_be_bytes(self.array()), self.cookie);
            let content = if self.style == Style::Extended {
                assert_eq!(u64::from_be_bytes(self.array()), offset);
                u64::from_be_bytes(self.array())
            } else {
                u64::from(u32::from_be_bytes(self.array()))
            };
            let content = self.bytes(content as usize);
            let number = |at: usize| u64::from_be_bytes(content[at..at + 8].try_into().unwrap());
            let short = |at: usize| u32::from_be_bytes(content[at..at + 4].try_into().unwrap());
            match kind {
                0 => assert!(content.is_empty()),
                1 | 2 => {
                    let at = (number(0) - offset) as usize;
                    let n = if kind == 1 { content.len() - 8 } else { short(8) as usize };
                    match kind {
                        1 => reply.data[at..at + n].copy_from_slice(&content[8..]),
                        _ => reply.data[at..at + n].fill(0),
                    }
                    reply.holes += usize::from(kind == 2);
                    covered += n as u64;
                }
                5 => {
                    assert_eq!(short(0), 1, "the number of base:allocation");
                    let pairs = content[4..].chunks(8).map(|pair| {
                        let half = |at| u32::from_be_bytes(pair[at..at + 4].try_into().unwrap());
                        (u64::from(half(0)), u64::from(half(4)))
                    });
                    reply.extents = pairs.collect();
                }
                6 => {
                    assert_eq!((short(0), short(4) as usize), (1, (content.len() - 8) / 16));
                    let pairs = content[8..].chunks(16).map(|pair| {
                        let half = |at| u64::from_be_bytes(pair[at..at + 8].try_into().unwrap());
                        (half(0), half(8))
                    });
                    reply.extents = pairs.collect();
                }
                _ => {
                    assert_eq!(kind, (1 << 15) + 1, "an error");
                    reply.error = short(0);
                }
            }
            if flags & 1 != 0 {
                assert!(
                    command != READ || reply.error != 0 || covered == len,
                    "{covered} of {len}"
                );
                return reply;
            }
        }
    }

    /// Sends a request and receives its reply.
    pub fn ask(&mut self, command: u16, flags: u16, range: (u64, u64), payload: &[u8]) -> Reply {
        self.request(command, flags, range, payload);
        self.reply(command, range)
    }

    pub fn read(&mut self, offset: u64, len: u64) -> Vec<u8> {
        let reply = self.ask(READ, 0, (offset, len), b"");
        assert_eq!(reply.error, 0, "read of {len} at {offset}");
        reply.data
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let reply = self.ask(WRITE, 0, (offset, data.len() as u64), data);
        assert_eq!(reply.error, 0, "write of {} at {offset}", data.len());
    }

    /// Ends properly; the server must close the connection.
    pub fn disconnect(mut self) {
        self.request(DISCONNECT, 0, (0, 0), b"");
        self.expect_end();
    }

    /// The server must close the connection without a word.
    pub fn expect_end(&mut self) {
        let mut rest = Vec::new();
        // Closing a socket with unread bytes resets it.
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.is_empty(), "{} more bytes", rest.len()),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).expect("the server answers");
        bytes
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.bytes(N).try_into().unwrap()
    }
}

/// A text after its length.
pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}
