//! The meaning of a group's metadata: its physical volumes and its logical volumes.

use super::label::UUID_LEN;
use super::name::is_valid;
use super::text::{Section, Value};
use crate::{Error, ErrorKind, Result};

/// Bytes of a sector, the unit of the metadata.
const SECTOR: u64 = 512;
/// Most physical volumes of a group.
const MAX_MEMBERS: usize = 1024;
/// Most logical volumes of a group.
const MAX_VOLUMES: usize = 4096;
/// Most stripes of all volumes of a group.
const MAX_STRIPES: usize = 65_536;

/// A volume group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Group {
    pub(super) name: String,
    /// UUID without dashes.
    pub(super) uuid: String,
    /// Counts the changes of the metadata.
    pub(super) seqno: u64,
    /// Bytes of an extent.
    pub(super) extent: u64,
    pub(super) members: Vec<Member>,
    pub(super) volumes: Vec<LogicalVolume>,
}

/// A physical volume of a group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Member {
    /// Its name within the metadata.
    key: String,
    /// UUID without dashes.
    pub(super) uuid: String,
    /// Byte at which its first extent starts.
    pub(super) start: u64,
    /// Number of its extents.
    pub(super) extents: u64,
    /// Whether LVM found it missing when it last wrote the metadata.
    pub(super) missing: bool,
}

/// A logical volume.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct LogicalVolume {
    pub(super) name: String,
    /// UUID without dashes.
    pub(super) uuid: String,
    /// Whether it is a volume of the user's, and not a part of another.
    pub(super) visible: bool,
    pub(super) writable: bool,
    pub(super) segments: Vec<LvSegment>,
}

/// A segment of a logical volume, in extents.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct LvSegment {
    pub(super) start: u64,
    pub(super) count: u64,
    pub(super) content: Content,
}

/// How a segment is stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Content {
    /// On physical volumes in turn: index of the member, and its first extent.
    Striped {
        /// Bytes in one stripe before the next follows.
        chunk: u64,
        stripes: Vec<(usize, u64)>,
    },
    /// A snapshot of the volume `origin` that keeps its changes in the volume `store`.
    Snapshot { origin: String, store: String, merging: bool },
    /// In another way, by its name in the metadata.
    Other(String),
}

fn damaged(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

fn too_many(what: &str, most: usize) -> Error {
    Error::new(ErrorKind::TooLarge, format!("its group has more than {most} {what}"))
}

/// The group that a parsed text describes.
///
/// # Errors
/// [`ErrorKind::Corrupt`] and [`ErrorKind::TooLarge`] with the reason;
/// [`ErrorKind::Unsupported`] for a format other than LVM2's.
pub(super) fn group(root: &Section<'_>) -> Result<Group> {
    let (name, section) =
        root.sections().next().ok_or_else(|| damaged("its metadata names no volume group"))?;
    if !is_valid(name) {
        return Err(damaged("its volume group has an invalid name"));
    }
    let lacking = |what: &str| damaged(format!("the volume group {name} has no valid {what}"));
    if section.text("format").is_some_and(|format| format != "lvm2") {
        let what = format!("the volume group {name} is not one of LVM2");
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    let extent = section.number("extent_size").filter(|sectors| *sectors > 0);
    let extent = extent.and_then(|sectors| sectors.checked_mul(SECTOR));
    let members = members(section).ok_or_else(|| lacking("list of physical volumes"))?;
    if members.len() > MAX_MEMBERS {
        return Err(too_many("physical volumes", MAX_MEMBERS));
    }
    Ok(Group {
        uuid: uuid(section).ok_or_else(|| lacking("UUID"))?,
        seqno: section.number("seqno").ok_or_else(|| lacking("sequence number"))?,
        extent: extent.ok_or_else(|| lacking("extent size"))?,
        volumes: volumes(name, section, &members)?,
        members,
        name: name.to_owned(),
    })
}

fn members(group: &Section<'_>) -> Option<Vec<Member>> {
    let member = |(key, section): (&str, &Section<'_>)| {
        Some(Member {
            key: key.to_owned(),
            uuid: uuid(section)?,
            start: section.number("pe_start")?.checked_mul(SECTOR)?,
            extents: section.number("pe_count")?,
            missing: section.says("flags", "MISSING") || section.says("status", "MISSING"),
        })
    };
    group.section("physical_volumes")?.sections().take(MAX_MEMBERS + 1).map(member).collect()
}

fn volumes(group: &str, section: &Section<'_>, members: &[Member]) -> Result<Vec<LogicalVolume>> {
    let Some(list) = section.section("logical_volumes") else { return Ok(Vec::new()) };
    let mut room = MAX_STRIPES;
    let mut out = Vec::new();
    for (name, section) in list.sections() {
        if !is_valid(name) {
            return Err(damaged(format!("a logical volume of {group} has an invalid name")));
        }
        if out.len() == MAX_VOLUMES {
            return Err(too_many("logical volumes", MAX_VOLUMES));
        }
        let lacking = || damaged(format!("the logical volume {group}/{name} is damaged"));
        let segments = segments(section, members).ok_or_else(lacking)?;
        for segment in &segments {
            let used = match &segment.content {
                Content::Striped { stripes, .. } => stripes.len(),
                _ => 1,
            };
            room = room.checked_sub(used).ok_or_else(|| too_many("stripes", MAX_STRIPES))?;
        }
        out.push(LogicalVolume {
            name: name.to_owned(),
            uuid: uuid(section).ok_or_else(lacking)?,
            visible: section.says("status", "VISIBLE"),
            writable: section.says("status", "WRITE"),
            segments,
        });
    }
    Ok(out)
}

/// The segments in the order of their extents.
fn segments(volume: &Section<'_>, members: &[Member]) -> Option<Vec<LvSegment>> {
    let count = volume.number("segment_count")?;
    let sections = volume.sections().filter(|(name, _)| name.starts_with("segment"));
    let segment = |(_, section): (&str, &Section<'_>)| {
        Some(LvSegment {
            start: section.number("start_extent")?,
            count: section.number("extent_count")?,
            content: content(section, members)?,
        })
    };
    let mut segments: Vec<_> = sections.map(segment).collect::<Option<_>>()?;
    segments.sort_by_key(|segment| segment.start);
    let mut next = 0_u64;
    for segment in &segments {
        if segment.start != next || segment.count == 0 {
            return None;
        }
        next = next.checked_add(segment.count)?;
    }
    (segments.len() as u64 == count).then_some(segments)
}

fn content(section: &Section<'_>, members: &[Member]) -> Option<Content> {
    let kind = section.text("type")?;
    let text = |name: &str| section.text(name).unwrap_or_default().to_owned();
    Some(match kind {
        "striped" | "linear" => {
            let values = section.list("stripes")?;
            let mut stripes = Vec::new();
            for pair in values.chunks(2) {
                let [Value::Text(key), Value::Number(extent)] = pair else { return None };
                match members.iter().position(|member| member.key == *key) {
                    Some(member) => stripes.push((member, *extent)),
                    // Stacked on another logical volume.
                    None => return Some(Content::Other("stacked".to_owned())),
                }
            }
            let claimed = section.number("stripe_count").unwrap_or(stripes.len() as u64);
            if stripes.is_empty() || claimed != stripes.len() as u64 {
                return None;
            }
            let chunk = section.number("stripe_size").unwrap_or(0).checked_mul(SECTOR)?;
            Content::Striped { chunk, stripes }
        }
        "snapshot" => Content::Snapshot {
            merging: section.text("merging_store").is_some(),
            store: section
                .text("cow_store")
                .or(section.text("merging_store"))
                .unwrap_or_default()
                .to_owned(),
            origin: text("origin"),
        },
        // Shown to the user.
        other => Content::Other(other.chars().filter(|c| !c.is_control()).take(40).collect()),
    })
}

/// The UUID of a section, without its dashes.
fn uuid(section: &Section<'_>) -> Option<String> {
    let uuid: String = section.text("id")?.chars().filter(|c| *c != '-').collect();
    let valid = uuid.len() == UUID_LEN && uuid.bytes().all(|b| b.is_ascii_alphanumeric());
    valid.then_some(uuid)
}
