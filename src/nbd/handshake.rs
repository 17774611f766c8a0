//! The negotiation with a client, until it begins to use an export.
//!
//! Source: doc/proto.md of NetworkBlockDevice/nbd, "Handshake".

use super::connection::Session;
use super::exports::Exports;
use super::options::{Contexts, Export, MAX_OPTION, Wish};
use super::protocol::{
    BASE_ALLOCATION, BASE_ALLOCATION_ID, FIXED_NEWSTYLE, INIT_MAGIC, MAX_PAYLOAD, NO_ZEROES,
    OPTION_MAGIC, OPTION_REPLY_MAGIC, PREFERRED_BLOCK, Style, info, option, reply,
};
use super::target::Target;
use std::io::{self, Read};
use std::sync::Arc;

/// Options that one client may send. One that lists and examines all exports needs some per export.
const MOST_OPTIONS: usize = 4096;

/// What can be negotiated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer<'a> {
    pub exports: &'a Exports,
    pub tls: TlsState,
}

/// Whether the connection is encrypted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TlsState {
    /// It is not, and cannot be.
    Off,
    /// It has to be, first of all.
    Required,
    /// It is.
    On,
}

/// How a negotiation ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The client uses an export.
    Begin(Session),
    /// The client wants encryption; negotiation starts over without a greeting.
    StartTls,
    /// The client has ended.
    End,
}

/// A two-way stream.
pub(super) trait Stream: Read {
    /// Send all of `bytes`.
    ///
    /// # Errors
    /// Errors of the connection.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Greet a client.
///
/// # Errors
/// Errors of the connection; `InvalidData` if the client wants something that does not exist.
pub(super) fn greet(stream: &mut impl Stream) -> io::Result<Greeting> {
    let mut hello = Vec::new();
    hello.extend(INIT_MAGIC.to_be_bytes());
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    stream.send(&hello)?;
    let flags = u32::from_be_bytes(receive(stream)?);
    if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
        return Err(nonsense("unknown flags of a client"));
    }
    Ok(Greeting { no_zeroes: flags & u32::from(NO_ZEROES) != 0 })
}

/// What a client has said at first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Greeting {
    no_zeroes: bool,
}

/// Do what the client asks for until it begins with an export, or ends.
///
/// # Errors
/// Errors of the connection; `InvalidData` if the client does not keep to the protocol.
pub(super) fn negotiate(
    stream: &mut impl Stream,
    greeting: Greeting,
    offer: Offer<'_>,
) -> io::Result<Outcome> {
    let mut negotiation = Negotiation {
        stream,
        offer,
        greeting,
        number: 0,
        style: Style::Simple,
        allocation_of: None,
    };
    for _ in 0..MOST_OPTIONS {
        if let Some(outcome) = negotiation.next()? {
            return Ok(outcome);
        }
    }
    Err(nonsense("too many options"))
}

fn nonsense(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn receive<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

struct Negotiation<'a, S> {
    stream: &'a mut S,
    offer: Offer<'a>,
    greeting: Greeting,
    /// The option that is being answered.
    number: u32,
    style: Style,
    /// The export for which `base:allocation` was chosen.
    allocation_of: Option<String>,
}

impl<S: Stream> Negotiation<'_, S> {
    /// Answer one option.
    fn next(&mut self) -> io::Result<Option<Outcome>> {
        if u64::from_be_bytes(receive(self.stream)?) != OPTION_MAGIC {
            return Err(nonsense("no option where one should be"));
        }
        self.number = u32::from_be_bytes(receive(self.stream)?);
        let len = u32::from_be_bytes(receive(self.stream)?);
        if len > MAX_OPTION {
            return Err(nonsense("an option of more than 64 KiB"));
        }
        // As long as what was received, and no longer.
        let mut content = Vec::new();
        self.stream.by_ref().take(u64::from(len)).read_to_end(&mut content)?;
        if content.len() < len as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(wish) = Wish::parse(self.number, &content) else {
            return match self.number {
                // It has no way to fail.
                option::EXPORT_NAME => Err(nonsense("an export name that cannot be")),
                _ => self.refuse(reply::INVALID, "malformed option"),
            };
        };
        if self.offer.tls == TlsState::Required && !matches!(wish, Wish::Abort | Wish::StartTls) {
            return match wish {
                Wish::ExportName(_) => Err(nonsense("an export without TLS")),
                _ => self.refuse(reply::TLS_REQUIRED, "this server requires TLS"),
            };
        }
        match wish {
            Wish::Unknown => self.refuse(reply::UNSUPPORTED, "unknown option"),
            Wish::Abort => {
                let _ = self.reply(reply::ACK, &[]); // the client need not wait for it
                Ok(Some(Outcome::End))
            }
            Wish::List => self.list(),
            Wish::StartTls => self.start_tls(),
            Wish::StructuredReplies => self.choose(Style::Structured),
            Wish::ExtendedHeaders => self.choose(Style::Extended),
            Wish::ListContexts(contexts) | Wish::SetContexts(contexts) => self.contexts(contexts),
            Wish::ExportName(name) => self.begin_at_once(name).map(Some),
            Wish::Info(export) => self.describe(export).map(|_| None),
            Wish::Go(export) => {
                let target = self.describe(export)?;
                Ok(target.map(|target| self.begin(target, export.name)))
            }
        }
    }

    fn reply(&mut self, kind: u32, content: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(20 + content.len());
        bytes.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        bytes.extend(self.number.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend((content.len() as u32).to_be_bytes());
        bytes.extend(content);
        self.stream.send(&bytes)
    }

    fn acknowledge(&mut self) -> io::Result<Option<Outcome>> {
        self.reply(reply::ACK, &[]).map(|()| None)
    }

    fn refuse(&mut self, kind: u32, why: &str) -> io::Result<Option<Outcome>> {
        self.reply(kind, why.as_bytes()).map(|()| None)
    }

    fn list(&mut self) -> io::Result<Option<Outcome>> {
        let exports = self.offer.exports;
        for name in exports.names() {
            // Names of files, which are short.
            let len = (name.len() as u32).to_be_bytes();
            self.reply(reply::SERVER, &[&len, name.as_bytes()].concat())?;
        }
        self.acknowledge()
    }

    fn start_tls(&mut self) -> io::Result<Option<Outcome>> {
        match self.offer.tls {
            TlsState::Off => self.refuse(reply::POLICY, "TLS is not set up"),
            TlsState::On => self.refuse(reply::INVALID, "TLS is in use already"),
            TlsState::Required => {
                self.reply(reply::ACK, &[])?;
                Ok(Some(Outcome::StartTls))
            }
        }
    }

    fn choose(&mut self, style: Style) -> io::Result<Option<Outcome>> {
        if self.style == style || self.style == Style::Extended {
            return self.refuse(reply::INVALID, "chosen already");
        }
        self.style = style;
        self.acknowledge()
    }

    /// The contexts of an export: listed, or chosen in place of those that were chosen before.
    fn contexts(&mut self, asked: Contexts<'_>) -> io::Result<Option<Outcome>> {
        let chosen = self.number == option::SET_META_CONTEXT;
        if chosen {
            self.allocation_of = None;
        }
        if self.style == Style::Simple {
            return self.refuse(reply::INVALID, "block status needs structured replies");
        }
        if self.offer.exports.find(asked.export).is_none() {
            return self.refuse(reply::UNKNOWN, "no such export");
        }
        if asked.base_allocation {
            let id = if chosen { BASE_ALLOCATION_ID } else { 0 };
            let content = [&id.to_be_bytes()[..], BASE_ALLOCATION.as_bytes()].concat();
            self.reply(reply::META_CONTEXT, &content)?;
            if chosen {
                self.allocation_of = Some(asked.export.to_owned());
            }
        }
        self.acknowledge()
    }

    /// Tell what an export is like. Returns it if there is one.
    fn describe(&mut self, asked: Export<'_>) -> io::Result<Option<Arc<Target>>> {
        let Some(target) = self.offer.exports.find(asked.name) else {
            self.refuse(reply::UNKNOWN, "no such export")?;
            return Ok(None);
        };
        let mut content = info::EXPORT.to_be_bytes().to_vec();
        content.extend(size_and_flags(&target, self.style));
        self.reply(reply::INFO, &content)?;
        if asked.wants_name {
            let name = [&info::NAME.to_be_bytes()[..], target.name.as_bytes()].concat();
            self.reply(reply::INFO, &name)?;
        }
        if asked.wants_block_size {
            let mut content = info::BLOCK_SIZE.to_be_bytes().to_vec();
            for size in [1, PREFERRED_BLOCK, MAX_PAYLOAD as u32] {
                content.extend(size.to_be_bytes());
            }
            self.reply(reply::INFO, &content)?;
        }
        self.reply(reply::ACK, &[])?;
        Ok(Some(target))
    }

    fn begin(&mut self, target: Arc<Target>, name: &str) -> Outcome {
        let block_status = self.allocation_of.as_deref() == Some(name);
        Outcome::Begin(Session { target, style: self.style, block_status })
    }

    fn begin_at_once(&mut self, name: &str) -> io::Result<Outcome> {
        let target = self.offer.exports.find(name).ok_or_else(|| nonsense("no such export"))?;
        let mut content = size_and_flags(&target, self.style);
        if !self.greeting.no_zeroes {
            content.resize(content.len() + 124, 0);
        }
        self.stream.send(&content)?;
        Ok(self.begin(target, name))
    }
}

fn size_and_flags(target: &Target, style: Style) -> Vec<u8> {
    [&target.len().to_be_bytes()[..], &target.flags(style).to_be_bytes()].concat()
}
