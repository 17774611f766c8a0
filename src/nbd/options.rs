//! What a client asks for before it reads and writes: the contents of options.
//!
//! Source: doc/proto.md of NetworkBlockDevice/nbd, "Option types". Nothing here does I/O.

use super::protocol::{BASE_ALLOCATION, Bytes, info, option};

/// The longest name of an export, in bytes.
const MAX_NAME: usize = 4096;
/// The longest content of an option in bytes. A name and some queries need less.
pub(super) const MAX_OPTION: u32 = 64 << 10;

/// An option with its content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Wish<'a> {
    /// Begin with this export, in the way of the first version of the protocol.
    ExportName(&'a str),
    /// End the negotiation.
    Abort,
    /// Names of the exports.
    List,
    /// Encrypt everything from here on.
    StartTls,
    /// What an export is like.
    Info(Export<'a>),
    /// The same, and begin with it.
    Go(Export<'a>),
    /// Replies in chunks.
    StructuredReplies,
    /// The contexts of block status that an export has.
    ListContexts(Contexts<'a>),
    /// The contexts that the client wants.
    SetContexts(Contexts<'a>),
    /// Requests and replies with lengths of 64 bits.
    ExtendedHeaders,
    /// An option that this server does not know.
    Unknown,
}

/// An export, and what is asked about it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Export<'a> {
    pub name: &'a str,
    pub wants_name: bool,
    pub wants_block_size: bool,
}

/// Contexts of an export.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Contexts<'a> {
    pub export: &'a str,
    /// Whether the queries match `base:allocation`.
    pub base_allocation: bool,
}

impl<'a> Wish<'a> {
    /// The option `number` with this content; `None` if the content is not as the protocol says.
    pub fn parse(number: u32, content: &'a [u8]) -> Option<Self> {
        let bare = |wish| content.is_empty().then_some(wish);
        match number {
            option::EXPORT_NAME => {
                let name = std::str::from_utf8(content).ok()?;
                (name.len() <= MAX_NAME).then_some(Self::ExportName(name))
            }
            // A content is allowed, and has no meaning.
            option::ABORT => Some(Self::Abort),
            option::LIST => bare(Self::List),
            option::STARTTLS => bare(Self::StartTls),
            option::INFO => export(content).map(Self::Info),
            option::GO => export(content).map(Self::Go),
            option::STRUCTURED_REPLY => bare(Self::StructuredReplies),
            option::LIST_META_CONTEXT => contexts(content, Queries::Listed).map(Self::ListContexts),
            option::SET_META_CONTEXT => contexts(content, Queries::Set).map(Self::SetContexts),
            option::EXTENDED_HEADERS => bare(Self::ExtendedHeaders),
            _ => Some(Self::Unknown),
        }
    }
}

fn export(content: &[u8]) -> Option<Export<'_>> {
    let mut bytes = Bytes(content);
    let name = bytes.text(MAX_NAME)?;
    let count = bytes.u16()?;
    let mut export = Export { name, wants_name: false, wants_block_size: false };
    for _ in 0..count {
        match bytes.u16()? {
            info::NAME => export.wants_name = true,
            info::BLOCK_SIZE => export.wants_block_size = true,
            _ => {}
        }
    }
    bytes.0.is_empty().then_some(export)
}

/// What queries are for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Queries {
    /// No query asks for all contexts, and a namespace alone for all of its contexts.
    Listed,
    /// No query asks for no context.
    Set,
}

fn contexts(content: &[u8], queries: Queries) -> Option<Contexts<'_>> {
    let mut bytes = Bytes(content);
    let export = bytes.text(MAX_NAME)?;
    let count = bytes.u32()?;
    let mut base_allocation = count == 0 && queries == Queries::Listed;
    for _ in 0..count {
        let query = bytes.text(MAX_NAME)?;
        base_allocation |= query == BASE_ALLOCATION;
        base_allocation |= query == "base:" && queries == Queries::Listed;
    }
    bytes.0.is_empty().then_some(Contexts { export, base_allocation })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
    }

    #[test]
    fn contents_are_read_exactly() {
        let go = [text("part1.raw"), vec![0, 2, 0, 3, 0, 1]].concat();
        let export = Export { name: "part1.raw", wants_name: true, wants_block_size: true };
        assert_eq!(Wish::parse(option::GO, &go), Some(Wish::Go(export)));
        assert_eq!(Wish::parse(option::INFO, &go), Some(Wish::Info(export)));
        for len in 0..go.len() {
            assert_eq!(Wish::parse(option::GO, &go[..len]), None, "{len} bytes");
        }
        assert_eq!(Wish::parse(option::GO, &[&go[..], b"x"].concat()), None);
        let defaults = Export { name: "", wants_name: false, wants_block_size: false };
        assert_eq!(Wish::parse(option::GO, &[0; 6]), Some(Wish::Go(defaults)));
        assert_eq!(Wish::parse(option::EXPORT_NAME, b"x"), Some(Wish::ExportName("x")));
        assert_eq!(Wish::parse(option::EXPORT_NAME, b"\xff"), None);
        assert_eq!(Wish::parse(option::LIST, b""), Some(Wish::List));
        assert_eq!(Wish::parse(option::LIST, b"x"), None);
        assert_eq!(Wish::parse(option::ABORT, b"goodbye"), Some(Wish::Abort));
        assert_eq!(Wish::parse(99, b"x"), Some(Wish::Unknown));
    }

    #[test]
    fn queries_for_contexts() {
        let content = |queries: &[&str]| {
            let count = (queries.len() as u32).to_be_bytes().to_vec();
            let queries = queries.iter().flat_map(|query| text(query));
            [text("disk.raw"), count, queries.collect()].concat()
        };
        for (queries, listed, set) in [
            (&[][..], true, false),
            (&["base:"], true, false),
            (&["base:allocation"], true, true),
            (&["qemu:dirty-bitmap:x", "base:allocation"], true, true),
            (&["base:other"], false, false),
        ] {
            let content = content(queries);
            let found = |base_allocation| Contexts { export: "disk.raw", base_allocation };
            assert_eq!(
                Wish::parse(option::LIST_META_CONTEXT, &content),
                Some(Wish::ListContexts(found(listed))),
                "{queries:?}"
            );
            assert_eq!(
                Wish::parse(option::SET_META_CONTEXT, &content),
                Some(Wish::SetContexts(found(set))),
                "{queries:?}"
            );
        }
        // More queries than there are bytes.
        let lie = [text("x"), u32::MAX.to_be_bytes().to_vec()].concat();
        assert_eq!(Wish::parse(option::SET_META_CONTEXT, &lie), None);
    }
}
