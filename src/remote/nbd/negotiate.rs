//! What client and server agree on before the first request.

use super::super::origin::Failure;
use std::io::{self, Read, Write};

const MAGIC: [u8; 8] = *b"NBDMAGIC";
const OPTION_MAGIC: [u8; 8] = *b"IHAVEOPT";
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Handshake flags of the server, and of the client: fixed newstyle, no zeros.
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;
/// Options.
const STARTTLS: u32 = 5;
const GO: u32 = 7;
/// Types of replies to options; errors have the highest bit.
const ACK: u32 = 1;
const INFO: u32 = 3;
const ERROR: u32 = 1 << 31;
const ERR_UNSUP: u32 = ERROR | 1;
const ERR_POLICY: u32 = ERROR | 2;
const ERR_TLS_REQD: u32 = ERROR | 5;
const ERR_UNKNOWN: u32 = ERROR | 6;
/// Types of information.
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;
/// Replies to an option, and bytes of one, at most.
const MOST_REPLIES: usize = 64;
const MOST_LEN: u32 = 16 << 10;
/// The most that a server must send in one reply if it says nothing else.
const DEFAULT_PAYLOAD: u32 = 32 << 20;

/// A flag of an export: it may be read over several connections.
pub(super) const CAN_MULTI_CONN: u16 = 1 << 8;

/// What the server says about its export.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Export {
    /// Length in bytes.
    pub(super) len: u64,
    pub(super) flags: u16,
    /// Requests have multiples of this length, in bytes, at multiples of it.
    pub(super) block: u32,
    /// The most that is sent in one reply, in bytes.
    pub(super) payload: u32,
}

/// The failure for an error of a socket.
pub(super) fn broken(e: io::Error) -> Failure {
    Failure::Passing(match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            "the server did not answer in time".to_owned()
        }
        io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
        _ => e.to_string(),
    })
}

fn nonsense() -> Failure {
    Failure::Lasting("the server does not follow the NBD protocol".into())
}

/// Exchange greetings.
///
/// # Errors
/// Errors of the stream; when the server is none, or an old one.
pub(super) fn greet(stream: &mut (impl Read + Write)) -> Result<(), Failure> {
    let mut head = [0; 18];
    stream.read_exact(&mut head).map_err(broken)?;
    if head[..8] != MAGIC || head[8..16] != OPTION_MAGIC {
        return Err(nonsense());
    }
    let flags = u16::from_be_bytes([head[16], head[17]]);
    if flags & FIXED_NEWSTYLE == 0 {
        return Err(Failure::Lasting(
            "the server is too old (no fixed newstyle negotiation)".into(),
        ));
    }
    let ours = u32::from(FIXED_NEWSTYLE | flags & NO_ZEROES);
    stream.write_all(&ours.to_be_bytes()).map_err(broken)
}

/// Ask for encryption. After this, a TLS handshake follows.
///
/// # Errors
/// Errors of the stream; when the server does not encrypt.
pub(super) fn start_tls(stream: &mut (impl Read + Write)) -> Result<(), Failure> {
    send_option(stream, STARTTLS, &[])?;
    match reply(stream, STARTTLS)? {
        (ACK, _) => Ok(()),
        (kind, _) if kind & ERROR != 0 => {
            Err(Failure::Lasting("the server does not encrypt".into()))
        }
        _ => Err(nonsense()),
    }
}

/// Choose the export called `name`. After this, requests follow.
///
/// # Errors
/// Errors of the stream; when the server does not have it, or does not give it to this client.
pub(super) fn choose(stream: &mut (impl Read + Write), name: &str) -> Result<Export, Failure> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec(); // a URL has at most 8 KiB
    data.extend(name.as_bytes());
    data.extend([0, 1]);
    data.extend(INFO_BLOCK_SIZE.to_be_bytes());
    send_option(stream, GO, &data)?;
    let (mut found, mut sizes) = (None, (1, DEFAULT_PAYLOAD));
    for _ in 0..MOST_REPLIES {
        let (kind, data) = reply(stream, GO)?;
        match (kind, data.as_slice()) {
            (ACK, _) => {
                let (len, flags) = found.ok_or_else(nonsense)?;
                let (block, payload) = sizes;
                return Ok(Export { len, flags, block, payload });
            }
            (INFO, [a, b, info @ ..]) => match (u16::from_be_bytes([*a, *b]), info) {
                (INFO_EXPORT, info) => {
                    let info: &[u8; 10] = info.try_into().map_err(|_| nonsense())?;
                    let len = u64::from_be_bytes(info[..8].try_into().unwrap_or_default());
                    found = Some((len, u16::from_be_bytes([info[8], info[9]])));
                }
                (INFO_BLOCK_SIZE, info) => {
                    let word = |at: usize| {
                        let bytes = info.get(at..at + 4).and_then(|b| b.try_into().ok());
                        bytes.map(u32::from_be_bytes).ok_or_else(nonsense)
                    };
                    let (least, most) = (word(0)?, word(8)?);
                    if !least.is_power_of_two() || least > 64 << 10 || most < least {
                        return Err(nonsense());
                    }
                    sizes = (least, most);
                }
                _ => {}
            },
            (ERR_UNKNOWN, _) => {
                return Err(Failure::Lasting(format!("the server has no export '{name}'")));
            }
            (ERR_TLS_REQD, _) => {
                return Err(Failure::Lasting("the server requires encryption; use nbds://".into()));
            }
            (ERR_POLICY, _) => return Err(Failure::Lasting("the server denies access".into())),
            (ERR_UNSUP, _) => {
                return Err(Failure::Lasting("the server is too old (no NBD_OPT_GO)".into()));
            }
            (kind, _) if kind & ERROR != 0 => {
                let what =
                    format!("the server refuses the export '{name}' (error {})", kind & !ERROR);
                return Err(Failure::Lasting(what));
            }
            _ => return Err(nonsense()),
        }
    }
    Err(nonsense())
}

/// Greet without encryption, and choose the export called `name`.
///
/// # Errors
/// Those of [`greet`] and [`choose`].
pub(super) fn negotiate(stream: &mut (impl Read + Write), name: &str) -> Result<Export, Failure> {
    greet(stream)?;
    choose(stream, name)
}

fn send_option(stream: &mut impl Write, option: u32, data: &[u8]) -> Result<(), Failure> {
    let len = (data.len() as u32).to_be_bytes();
    let bytes = [&OPTION_MAGIC[..], &option.to_be_bytes(), &len, data].concat();
    stream.write_all(&bytes).map_err(broken)
}

/// Type and content of a reply to `option`.
fn reply(stream: &mut impl Read, option: u32) -> Result<(u32, Vec<u8>), Failure> {
    let mut head = [0; 20];
    stream.read_exact(&mut head).map_err(broken)?;
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let magic = u64::from(word(0)) << 32 | u64::from(word(4));
    let (to, kind, len) = (word(8), word(12), word(16));
    if magic != REPLY_MAGIC || to != option || len > MOST_LEN {
        return Err(nonsense());
    }
    let mut data = vec![0; len as usize];
    stream.read_exact(&mut data).map_err(broken)?;
    Ok((kind, data))
}
