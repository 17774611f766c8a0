//! The messages of the NBD protocol as bytes: constants, requests, and replies.
//!
//! All numbers are big endian. Source: doc/proto.md of NetworkBlockDevice/nbd. Nothing here does
//! I/O.

/// The server's first eight bytes.
pub(super) const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// The next eight bytes, and the first of each option.
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// The first bytes of a reply to an option.
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Handshake flags: options may fail without ending the connection.
pub(super) const FIXED_NEWSTYLE: u16 = 1;
/// Handshake flags: `NBD_OPT_EXPORT_NAME` is answered without 124 zeros.
pub(super) const NO_ZEROES: u16 = 2;

/// Options of the negotiation.
pub(super) mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Replies to options.
pub(super) mod reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const UNSUPPORTED: u32 = 0x8000_0001;
    pub const POLICY: u32 = 0x8000_0002;
    pub const INVALID: u32 = 0x8000_0003;
    pub const TLS_REQUIRED: u32 = 0x8000_0005;
    pub const UNKNOWN: u32 = 0x8000_0006;
}

/// What `NBD_REP_INFO` tells.
pub(super) mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const BLOCK_SIZE: u16 = 3;
}

/// What an export can do.
pub(super) mod transmission {
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const FLUSH: u16 = 1 << 2;
    pub const FUA: u16 = 1 << 3;
    pub const TRIM: u16 = 1 << 5;
    pub const WRITE_ZEROES: u16 = 1 << 6;
    pub const DF: u16 = 1 << 7;
    pub const MULTI_CONN: u16 = 1 << 8;
    pub const FAST_ZERO: u16 = 1 << 11;
}

/// Requests.
pub(super) mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISCONNECT: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of requests.
pub(super) mod flag {
    pub const FUA: u16 = 1;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Errors that a request may end with, with the numbers of the protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(super) enum NbdError {
    NotPermitted = 1,
    Io = 5,
    NoMemory = 12,
    Invalid = 22,
    NoSpace = 28,
    Overflow = 75,
    NotSupported = 95,
}

impl From<&std::io::Error> for NbdError {
    fn from(e: &std::io::Error) -> Self {
        match (e.kind(), e.raw_os_error()) {
            (std::io::ErrorKind::StorageFull, _)
            | (_, Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG)) => Self::NoSpace,
            (_, Some(libc::EROFS)) => Self::NotPermitted,
            (_, Some(libc::ENOMEM)) => Self::NoMemory,
            _ => Self::Io,
        }
    }
}

/// The context of `NBD_CMD_BLOCK_STATUS` that this server knows.
pub(super) const BASE_ALLOCATION: &str = "base:allocation";
/// Its number.
pub(super) const BASE_ALLOCATION_ID: u32 = 1;
/// A range that is not allocated, and reads as zeros.
pub(super) const HOLE_OF_ZEROS: u32 = 3;

/// The largest payload of a request or a reply, in bytes.
pub(super) const MAX_PAYLOAD: u64 = 32 << 20;
/// Requests in units of this many bytes take the least time.
pub(super) const PREFERRED_BLOCK: u32 = 4096;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Flag of the last chunk of a reply.
const DONE: u16 = 1;
/// Types of chunks.
const CHUNK_NONE: u16 = 0;
const CHUNK_DATA: u16 = 1;
const CHUNK_HOLE: u16 = 2;
const CHUNK_BLOCK_STATUS: u16 = 5;
const CHUNK_BLOCK_STATUS_EXT: u16 = 6;
const CHUNK_ERROR: u16 = (1 << 15) + 1;

/// A request's header. Offset and length in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Request {
    pub flags: u16,
    pub command: u16,
    /// The client's name for the request.
    pub cookie: u64,
    pub offset: u64,
    pub len: u64,
}

impl Request {
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// How requests and replies are written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Style {
    /// As in the first version of the protocol.
    #[default]
    Simple,
    /// Replies to reads come in chunks.
    Structured,
    /// All replies are chunks, and lengths have 64 bits.
    Extended,
}

/// Whether more chunks follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Chunk {
    Last,
    More,
}

impl Style {
    /// Length of a request's header in bytes.
    pub fn request_len(self) -> usize {
        if self == Self::Extended { 32 } else { 28 }
    }

    /// The request whose header is at the start of `bytes`; `None` if it does not start with the
    /// right magic number. `bytes` must have [`Style::request_len`] bytes.
    pub fn request(self, bytes: &[u8]) -> Option<Request> {
        let (magic, extended) = match self {
            Self::Extended => (EXTENDED_REQUEST_MAGIC, true),
            Self::Simple | Self::Structured => (REQUEST_MAGIC, false),
        };
        let mut bytes = Bytes(bytes);
        if bytes.u32()? != magic {
            return None;
        }
        Some(Request {
            flags: bytes.u16()?,
            command: bytes.u16()?,
            cookie: bytes.u64()?,
            offset: bytes.u64()?,
            len: if extended { bytes.u64()? } else { u64::from(bytes.u32()?) },
        })
    }

    /// Append the reply to a request other than a read, or to a read of nothing, that succeeded.
    pub fn done(self, out: &mut Vec<u8>, request: &Request) {
        match self {
            Self::Extended => self.chunk(out, request, CHUNK_NONE, 0, Chunk::Last),
            Self::Structured if request.command == command::READ => {
                self.chunk(out, request, CHUNK_NONE, 0, Chunk::Last);
            }
            Self::Simple | Self::Structured => simple(out, request, 0),
        }
    }

    /// Append the reply to a request that failed. Chunks of data may have been sent before.
    pub fn failed(self, out: &mut Vec<u8>, request: &Request, error: NbdError) {
        let in_chunks = match self {
            Self::Simple => false,
            Self::Structured => {
                matches!(request.command, command::READ | command::BLOCK_STATUS)
            }
            Self::Extended => true,
        };
        if !in_chunks {
            return simple(out, request, error as u32);
        }
        self.chunk(out, request, CHUNK_ERROR, 6, Chunk::Last);
        out.extend((error as u32).to_be_bytes());
        // The length of a message, which is optional.
        out.extend(0u16.to_be_bytes());
    }

    /// Append the header of `len` bytes of data that were read at `offset`. In the simple style it is
    /// the header of the whole reply.
    pub fn data(self, out: &mut Vec<u8>, request: &Request, (offset, len): (u64, u64), end: Chunk) {
        if self == Self::Simple {
            return simple(out, request, 0);
        }
        self.chunk(out, request, CHUNK_DATA, 8 + len, end);
        out.extend(offset.to_be_bytes());
    }

    /// Append a chunk that says that `len` bytes at `offset` are zeros. Not in the simple style.
    pub fn hole(self, out: &mut Vec<u8>, request: &Request, (offset, len): (u64, u64), end: Chunk) {
        self.chunk(out, request, CHUNK_HOLE, 12, end);
        out.extend(offset.to_be_bytes());
        // At most the length of a payload.
        out.extend((len as u32).to_be_bytes());
    }

    /// Append the reply to a request for block status: consecutive extents with their length and
    /// status. Not in the simple style. Lengths must fit into 32 bits unless it is the extended one.
    pub fn block_status(self, out: &mut Vec<u8>, request: &Request, extents: &[(u64, u32)]) {
        let count = extents.len() as u64;
        if self == Self::Extended {
            self.chunk(out, request, CHUNK_BLOCK_STATUS_EXT, 8 + 16 * count, Chunk::Last);
            out.extend(BASE_ALLOCATION_ID.to_be_bytes());
            out.extend((count as u32).to_be_bytes());
            for (len, status) in extents {
                out.extend(len.to_be_bytes());
                out.extend(u64::from(*status).to_be_bytes());
            }
            return;
        }
        self.chunk(out, request, CHUNK_BLOCK_STATUS, 4 + 8 * count, Chunk::Last);
        out.extend(BASE_ALLOCATION_ID.to_be_bytes());
        for (len, status) in extents {
            out.extend((*len as u32).to_be_bytes());
            out.extend(status.to_be_bytes());
        }
    }

    fn chunk(self, out: &mut Vec<u8>, request: &Request, kind: u16, len: u64, end: Chunk) {
        let flags = if end == Chunk::Last { DONE } else { 0 };
        let extended = self == Self::Extended;
        let magic = if extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
        out.extend(magic.to_be_bytes());
        out.extend(flags.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend(request.cookie.to_be_bytes());
        if extended {
            out.extend(request.offset.to_be_bytes());
            out.extend(len.to_be_bytes());
        } else {
            // At most the length of a payload and some bytes.
            out.extend((len as u32).to_be_bytes());
        }
    }
}

fn simple(out: &mut Vec<u8>, request: &Request, error: u32) {
    out.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend(error.to_be_bytes());
    out.extend(request.cookie.to_be_bytes());
}

/// Reads numbers from the start of a message; `None` when it is too short.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A text after its length in 32 bits, of at most `max` bytes.
    pub fn text(&mut self, max: usize) -> Option<&'a str> {
        let len = usize::try_from(self.u32()?).ok().filter(|len| *len <= max)?;
        std::str::from_utf8(self.take(len)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Request = Request {
        flags: 1,
        command: command::READ,
        cookie: 0x0102_0304_0506_0708,
        offset: 9,
        len: 7,
    };

    fn reply(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn requests_are_read_as_the_protocol_writes_them() {
        let mut compact = vec![0x25, 0x60, 0x95, 0x13, 0, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        compact.extend([0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 7]);
        assert_eq!(Style::Simple.request(&compact), Some(REQUEST));
        assert_eq!(Style::Structured.request(&compact), Some(REQUEST));
        assert_eq!(compact.len(), Style::Simple.request_len());
        assert_eq!(Style::Extended.request(&compact), None);
        let mut extended = vec![0x21, 0xe4, 0x1c, 0x71];
        extended.extend(&compact[4..24]);
        extended.extend(7u64.to_be_bytes());
        assert_eq!(Style::Extended.request(&extended), Some(REQUEST));
        assert_eq!(extended.len(), Style::Extended.request_len());
        for len in 0..extended.len() {
            assert_eq!(Style::Extended.request(&extended[..len]), None, "{len} bytes");
        }
    }

    #[test]
    fn replies_have_the_lengths_that_they_announce() {
        let all = [Style::Simple, Style::Structured, Style::Extended];
        let lens = |write: &dyn Fn(Style, &mut Vec<u8>)| {
            all.map(|style| reply(|out| write(style, out)).len())
        };
        assert_eq!(lens(&|style, out| style.done(out, &REQUEST)), [16, 20, 32]);
        let write = Request { command: command::WRITE, ..REQUEST };
        assert_eq!(lens(&|style, out| style.done(out, &write)), [16, 16, 32]);
        let failed =
            |request: Request| lens(&|style, out| style.failed(out, &request, NbdError::Io));
        assert_eq!(failed(REQUEST), [16, 26, 38]);
        assert_eq!(failed(write), [16, 16, 38]);
        let data = |style: Style, out: &mut Vec<u8>| style.data(out, &REQUEST, (9, 7), Chunk::Last);
        assert_eq!(lens(&data), [16, 28, 40]);
        let hole = reply(|out| Style::Structured.hole(out, &REQUEST, (9, 7), Chunk::More));
        assert_eq!((hole.len(), &hole[4..8]), (32, &[0, 0, 0, 2][..]), "not the last one");
        let extents = [(4096, 0), (512, HOLE_OF_ZEROS)];
        let status = reply(|out| Style::Structured.block_status(out, &REQUEST, &extents));
        assert_eq!((status.len(), &status[16..20]), (40, &[0, 0, 0, 20][..]));
        let status = reply(|out| Style::Extended.block_status(out, &REQUEST, &extents));
        assert_eq!((status.len(), status[31]), (72, 40));
    }

    #[test]
    fn errors_are_told_apart() {
        for (errno, expected) in [
            (libc::ENOSPC, NbdError::NoSpace),
            (libc::EROFS, NbdError::NotPermitted),
            (libc::EIO, NbdError::Io),
            (libc::EPIPE, NbdError::Io),
        ] {
            assert_eq!(NbdError::from(&std::io::Error::from_raw_os_error(errno)), expected);
        }
    }
}
