//! Finding the volumes: the newest metadata of each group, and what can be read of it.

use super::group::{Content, Group, LogicalVolume, group};
use super::label::{Label, read_label};
use super::map::{Range, Segment, Stripe, VolumeMap};
use super::metadata::read_text;
use super::text::Section;
use crate::bytes::ReadAt;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most problems that are listed.
const MAX_PROBLEMS: usize = 50;

/// A physical volume to survey.
pub struct PhysicalVolume<'a> {
    /// What to call it in messages: `partition 2 of xvda`.
    pub name: &'a str,
    /// Its bytes.
    pub bytes: &'a dyn ReadAt,
}

/// What was found.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// The volumes that can be read, in the order of the metadata.
    pub volumes: Vec<Volume>,
    /// What cannot be read, why, and what can be done: one sentence each.
    pub problems: Vec<String>,
    /// Two physical volumes or groups that cannot be told apart, in a few words.
    pub copies: Option<String>,
}

/// A logical volume that can be read.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// Name of its group.
    pub group: String,
    /// Its name.
    pub name: String,
    /// UUIDs of group and volume without dashes, as in `/dev/disk/by-id/dm-uuid-LVM-…`.
    pub uuid: String,
    /// Whether its bytes may be written.
    pub writable: bool,
    /// Where its bytes are.
    pub map: VolumeMap,
}

/// The logical volumes in `pvs`. Never fails: what cannot be read is a problem, and costs only the
/// volumes that need it.
pub fn survey(pvs: &[PhysicalVolume<'_>]) -> Survey {
    let mut survey = Survey::default();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut groups = Vec::new();
    for (source, pv) in pvs.iter().enumerate() {
        let failed = |e: Error| format!("{} is a physical volume of LVM, but {e}", pv.name);
        let label = match read_label(pv.bytes) {
            Ok(label) => label,
            Err(e) => {
                survey.problem(failed(e));
                continue;
            }
        };
        if let Some(first) = places.get(&label.uuid) {
            let names = (pvs[*first].name, pv.name);
            survey.copies =
                Some(format!("{} and {} are the same physical volume", names.0, names.1));
            survey.problem(format!(
                "{} and {} have the same UUID: one is a copy of the other, and only the first \
                 is read; leave one of them out",
                pvs[*first].name, pv.name
            ));
            continue;
        }
        match newest(pv.bytes, &label) {
            Ok(found) => groups.extend(found),
            Err(e) => survey.problem(failed(e)),
        }
        places.insert(label.uuid, source);
    }
    let mut names: Vec<String> = Vec::new();
    for group in current(groups, &mut survey) {
        if names.contains(&group.name) {
            survey.copies = Some(format!("there are two volume groups called {}", group.name));
            survey.problem(format!(
                "there are two volume groups called {}, and only one of them is read; rename one \
                 in its guest (vgrename)",
                group.name
            ));
            continue;
        }
        names.push(group.name.clone());
        survey.add(&group, &places, pvs);
    }
    survey
}

/// The newest metadata of one physical volume.
fn newest(bytes: &dyn ReadAt, label: &Label) -> Result<Option<Group>> {
    let mut best: Option<Group> = None;
    let mut failure = None;
    for area in &label.metadata {
        let found = read_text(bytes, *area).and_then(|text| match text {
            Some(text) => group(&Section::parse(&text)?).map(Some),
            None => Ok(None),
        });
        match found {
            Ok(Some(found)) if best.as_ref().is_none_or(|b| b.seqno < found.seqno) => {
                best = Some(found);
            }
            Ok(_) => {}
            Err(e) => failure = Some(e),
        }
    }
    // A second copy makes up for the first.
    match (best, failure) {
        (None, Some(e)) => Err(e),
        (best, _) => Ok(best),
    }
}

/// The newest state of each group, in the order in which they were found.
fn current(found: Vec<Group>, survey: &mut Survey) -> Vec<Group> {
    let mut out: Vec<Group> = Vec::new();
    let mut contradictory: Vec<String> = Vec::new();
    for group in found {
        let Some(known) = out.iter_mut().find(|known| known.uuid == group.uuid) else {
            out.push(group);
            continue;
        };
        if group.seqno > known.seqno {
            contradictory.retain(|uuid| *uuid != group.uuid);
            *known = group;
        } else if group.seqno == known.seqno && group != *known {
            contradictory.push(group.uuid);
        }
    }
    out.retain(|group| {
        let clear = !contradictory.contains(&group.uuid);
        if !clear {
            survey.problem(format!(
                "the physical volumes of the group {} contradict each other, so its volumes are \
                 not read; repair it in the guest (vgck --updatemetadata)",
                group.name
            ));
        }
        clear
    });
    out
}

impl Survey {
    fn problem(&mut self, what: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(what);
        }
    }

    /// Adds the volumes of `group`. `places` are the physical volumes by UUID.
    fn add(&mut self, group: &Group, places: &BTreeMap<String, usize>, pvs: &[PhysicalVolume<'_>]) {
        let sources: Vec<Source> = group
            .members
            .iter()
            .map(|member| match places.get(&member.uuid) {
                Some(_) if member.missing => Source::Missing(dashed(&member.uuid)),
                Some(source) => Source::Here(*source),
                None => Source::Missing(dashed(&member.uuid)),
            })
            .collect();
        let mut used: Vec<Range> = Vec::new();
        let mut volumes = Vec::new();
        for volume in group.volumes.iter().filter(|volume| volume.visible) {
            let name = &volume.name;
            match self::volume(group, volume, &sources, pvs) {
                Ok(volume) => {
                    used.extend(volume.map.stored());
                    volumes.push(volume);
                }
                Err(why) => self.problem(format!(
                    "the logical volume {}/{name} is not shown: {why}",
                    group.name
                )),
            }
        }
        used.sort_unstable_by_key(|range| (range.source, range.offset));
        let overlap = used.windows(2).any(|pair| {
            pair[0].source == pair[1].source && pair[0].offset + pair[0].len > pair[1].offset
        });
        if overlap {
            self.problem(format!(
                "the metadata of the volume group {} uses some extents twice, so its volumes are \
                 not read; repair it in the guest (vgck)",
                group.name
            ));
            return;
        }
        self.volumes.extend(volumes);
    }
}

/// A member of a group.
enum Source {
    /// By its index.
    Here(usize),
    /// By its UUID.
    Missing(String),
}

/// The map of `volume`, or why it cannot be read.
fn volume(
    group: &Group,
    volume: &LogicalVolume,
    sources: &[Source],
    pvs: &[PhysicalVolume<'_>],
) -> std::result::Result<Volume, String> {
    let damaged = || "its metadata maps it to places that do not exist".to_owned();
    let snapshots = || group.volumes.iter().flat_map(|v| &v.segments).map(|s| &s.content);
    let mut writable = volume.writable;
    for content in snapshots() {
        let Content::Snapshot { origin, store, merging } = content else { continue };
        if *store == volume.name {
            return Err(unsupported("a snapshot"));
        }
        if *origin == volume.name {
            if *merging {
                return Err(unsupported("a volume that is being merged with a snapshot"));
            }
            // A write here would change the snapshot too, which only the guest's kernel prevents.
            writable = false;
        }
    }
    let mut segments = Vec::new();
    for segment in &volume.segments {
        let (chunk, stripes) = match &segment.content {
            Content::Striped { chunk, stripes } => (*chunk, stripes),
            Content::Snapshot { .. } => return Err(unsupported("a snapshot")),
            Content::Other(kind) => return Err(unsupported(&described(kind))),
        };
        let len = segment.count.checked_mul(group.extent).ok_or_else(damaged)?;
        // Each stripe has the same number of whole extents.
        let count = stripes.len() as u64;
        if segment.count % count != 0 {
            return Err(damaged());
        }
        let each = segment.count / count;
        let mut placed = Vec::new();
        for (member, extent) in stripes {
            let source = match &sources[*member] {
                Source::Here(source) => *source,
                Source::Missing(uuid) => {
                    return Err(format!(
                        "it needs the physical volume {uuid}, which is not among the images; name \
                         its image too"
                    ));
                }
            };
            let member = &group.members[*member];
            let last = extent.checked_add(each).ok_or_else(damaged)?;
            let offset = extent.checked_mul(group.extent);
            let offset = offset.and_then(|bytes| bytes.checked_add(member.start));
            let offset = offset.filter(|_| last <= member.extents).ok_or_else(damaged)?;
            placed.push(Stripe { source, offset });
        }
        segments.push(Segment { len, chunk, stripes: placed });
    }
    if segments.is_empty() {
        return Err(damaged());
    }
    let map = VolumeMap::new(segments).map_err(|_| damaged())?;
    let lens: Vec<u64> = pvs.iter().map(|pv| pv.bytes.len()).collect();
    map.check(&lens).map_err(|_| {
        "it extends beyond the end of a physical volume; is its image complete?".to_owned()
    })?;
    let uuid = format!("{}{}", group.uuid, volume.uuid);
    Ok(Volume { group: group.name.clone(), name: volume.name.clone(), uuid, writable, map })
}

/// The reason for not reading a volume of an unsupported type.
fn unsupported(what: &str) -> String {
    format!(
        "it is {what}, and only linear and striped volumes are read here; the guest itself can use \
         it once it runs"
    )
}

/// A segment type in words.
fn described(kind: &str) -> String {
    let base = kind.split('+').next().unwrap_or_default();
    match base {
        "thin" => "a thin volume".to_owned(),
        "thin-pool" => "a thin pool".to_owned(),
        "mirror" => "a mirror".to_owned(),
        "cache" | "cache-pool" | "writecache" => "a cached volume".to_owned(),
        "stacked" => "stacked on another volume".to_owned(),
        raid if raid.starts_with("raid") => format!("a RAID volume ({raid})"),
        other => format!("of the type '{other}'"),
    }
}

/// A UUID as LVM prints it.
fn dashed(uuid: &str) -> String {
    let mut out = String::with_capacity(uuid.len() + 6);
    for (i, c) in uuid.chars().enumerate() {
        if matches!(i, 6 | 10 | 14 | 18 | 22 | 26) {
            out.push('-');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests;
