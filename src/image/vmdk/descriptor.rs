//! The descriptor of a VMDK: which extents a disk has, and its parent.

use super::sparse::SparseKind;
use crate::{Error, ErrorKind, Result};

/// Maximum number of extents: 8 TiB in files of 2 GiB.
const MAX_EXTENTS: usize = 4096;
/// The identifier of a parent that does not exist.
const NO_PARENT: &str = "ffffffff";

/// A descriptor.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Descriptor {
    /// Identifier of the content: eight hexadecimal digits, in lower case.
    pub(super) cid: String,
    pub(super) parent: Option<Parent>,
    pub(super) extents: Vec<ExtentLine>,
}

/// The disk that this one is based on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Parent {
    /// Its identifier when this disk was made.
    pub(super) cid: String,
    /// Its path, as recorded.
    pub(super) name: String,
}

/// An extent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ExtentLine {
    /// Length in sectors.
    pub(super) sectors: u64,
    pub(super) kind: ExtentKind,
    /// Path of its file.
    pub(super) name: String,
    /// First sector in the file, of a flat extent.
    pub(super) offset: u64,
}

/// How an extent is stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ExtentKind {
    /// In order.
    Flat,
    Sparse(SparseKind),
    /// Not at all: it is zeros.
    Zero,
}

impl Descriptor {
    /// Parse the text of a descriptor.
    ///
    /// # Errors
    /// `Corrupt` for a damaged one; `Unsupported` for extents of other kinds.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let (mut cid, mut parent_cid, mut hint) = (None, None, None);
        let mut extents = Vec::new();
        for line in text.lines().map(str::trim) {
            if let Some(extent) = ExtentLine::parse(line)? {
                if extents.len() >= MAX_EXTENTS {
                    let what = format!("it has more than {MAX_EXTENTS} extents");
                    return Err(Error::new(ErrorKind::TooLarge, what));
                }
                extents.push(extent);
                continue;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) else {
                continue;
            };
            let value = value.trim().trim_matches('"');
            match key.trim() {
                "CID" => cid = Some(value.to_ascii_lowercase()),
                "parentCID" => parent_cid = Some(value.to_ascii_lowercase()),
                "parentFileNameHint" => hint = Some(value.to_owned()),
                _ => {}
            }
        }
        let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, what);
        if extents.is_empty() {
            return Err(corrupt("its descriptor lists no extent"));
        }
        let parent = match parent_cid.filter(|cid| cid != NO_PARENT) {
            None => None,
            Some(cid) => {
                let name = hint.filter(|name| !name.is_empty());
                let name = name.ok_or_else(|| corrupt("it has a parent and does not name it"))?;
                Some(Parent { cid, name })
            }
        };
        let cid = cid.ok_or_else(|| corrupt("its descriptor has no CID"))?;
        Ok(Self { cid, parent, extents })
    }
}

impl ExtentLine {
    /// The extent of `line`: access, length in sectors, type, name in quotes, offset; `None` if it is
    /// another line.
    fn parse(line: &str) -> Result<Option<Self>> {
        let mut words = line.splitn(4, char::is_whitespace);
        let access = words.next().unwrap_or_default();
        if !matches!(access, "RW" | "RDONLY" | "NOACCESS") {
            return Ok(None);
        }
        let damaged = || {
            let what = format!("an extent in its descriptor is damaged: '{}'", line.escape_debug());
            Error::new(ErrorKind::Corrupt, what)
        };
        let unsupported = |what: String| Err(Error::new(ErrorKind::Unsupported, what));
        let sectors = words.next().and_then(|word| word.parse().ok()).ok_or_else(damaged)?;
        let kind = words.next().ok_or_else(damaged)?;
        if access == "NOACCESS" {
            return unsupported("it has an extent without access, which is not supported".into());
        }
        let kind = match kind {
            "FLAT" | "VMFS" => ExtentKind::Flat,
            "SPARSE" => ExtentKind::Sparse(SparseKind::Hosted),
            "VMFSSPARSE" => ExtentKind::Sparse(SparseKind::Esx),
            "ZERO" => ExtentKind::Zero,
            "SESPARSE" => {
                return unsupported(
                    "it is a snapshot in the format seSparse, which is not read; write it out whole \
                     first (vmkfstools -i, or qemu-img convert -O vmdk)"
                        .into(),
                );
            }
            other => {
                return unsupported(format!(
                    "it has an extent of the type {}, which is not read",
                    other.escape_debug()
                ));
            }
        };
        if kind == ExtentKind::Zero {
            return Ok(Some(Self { sectors, kind, name: String::new(), offset: 0 }));
        }
        let rest = words.next().and_then(|rest| rest.trim_start().strip_prefix('"'));
        let (name, offset) = rest.and_then(|rest| rest.rsplit_once('"')).ok_or_else(damaged)?;
        let offset = match offset.trim() {
            "" => 0,
            word => word.parse().map_err(|_| damaged())?,
        };
        Ok(Some(Self { sectors, kind, name: name.to_owned(), offset }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# Disk DescriptorFile\nversion=1\nCID=FE012345\nparentCID=ffffffff\n\
                        createType=\"twoGbMaxExtentFlat\"\n";

    #[test]
    fn extents_and_parents_are_read() {
        let text = format!(
            "{HEAD}RW 4192256 FLAT \"a b-f001.vmdk\" 0\r\nRDONLY 100 FLAT \"x\" 7\nRW 8 ZERO\n\
             RW 16 SPARSE \"s\"\n RW 16 VMFS \"v-flat.vmdk\" 0\nRW 16 VMFSSPARSE \"d\"\nddb.a = \"1\"\n"
        );
        let found = Descriptor::parse(&text).unwrap();
        assert_eq!((found.cid.as_str(), &found.parent), ("fe012345", &None));
        let extents: Vec<_> =
            found.extents.iter().map(|e| (e.sectors, e.kind, e.name.as_str(), e.offset)).collect();
        let sparse = ExtentKind::Sparse;
        assert_eq!(
            extents,
            [
                (4_192_256, ExtentKind::Flat, "a b-f001.vmdk", 0),
                (100, ExtentKind::Flat, "x", 7),
                (8, ExtentKind::Zero, "", 0),
                (16, sparse(SparseKind::Hosted), "s", 0),
                (16, ExtentKind::Flat, "v-flat.vmdk", 0),
                (16, sparse(SparseKind::Esx), "d", 0),
            ]
        );
        let child = "CID=1\nparentCID=FE012345\nparentFileNameHint=\"p.vmdk\"\nRW 8 ZERO";
        let parent = Parent { cid: "fe012345".into(), name: "p.vmdk".into() };
        assert_eq!(Descriptor::parse(child).unwrap().parent, Some(parent));
    }

    #[test]
    fn nonsense_is_refused() {
        let many = "RW 1 ZERO\n".repeat(MAX_EXTENTS + 1);
        for (text, word) in [
            (HEAD, "no extent"),
            ("RW 1 ZERO", "no CID"),
            ("CID=1\nRW x FLAT \"a\" 0", "damaged"),
            ("CID=1\nRW 1", "damaged"),
            ("CID=1\nRW 1 FLAT a 0", "damaged"),
            ("CID=1\nRW 1 FLAT \"a\" b", "damaged"),
            ("CID=1\nRW 1 SESPARSE \"a\"", "seSparse"),
            ("CID=1\nRW 1 VMFSRDM \"a\"", "VMFSRDM"),
            ("CID=1\nNOACCESS 1 FLAT \"a\"", "without access"),
            ("CID=1\nparentCID=2\nRW 1 ZERO", "does not name it"),
            (&many, "more than"),
        ] {
            let e = Descriptor::parse(text).unwrap_err();
            assert!(e.to_string().contains(word), "{text}: {e}");
        }
    }
}
