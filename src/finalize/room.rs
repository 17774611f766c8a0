//! Is there room for the results? Told before the first byte, where it can be known.

use super::contents::Contents;
use super::copy::cannot_read;
use super::target::{Place, Target};
use crate::layout::format_size;
use crate::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

/// What goes to one filesystem.
struct Share<'a> {
    place: &'a Place,
    names: Vec<String>,
    needed: u64,
}

/// Refuse when the data of all `outputs`, none of which shares blocks or compresses, may not fit on
/// their filesystems. Zeros that are stored count as data, which nobody has looked at yet.
///
/// # Errors
/// [`ErrorKind::TooLarge`]; those of looking for data.
pub fn check_room<'a>(
    outputs: impl IntoIterator<Item = (&'a dyn Contents, &'a Target)>,
) -> Result<()> {
    let mut shares: BTreeMap<u64, Share<'a>> = BTreeMap::new();
    for (contents, target) in outputs {
        let Target::File(place) = target else { continue };
        let Ok(meta) = place.dir.metadata() else { continue };
        let share =
            shares.entry(meta.dev()).or_insert(Share { place, names: Vec::new(), needed: 0 });
        share.names.push(place.path().display().to_string());
        share.needed += data_of(contents)?;
    }
    for share in shares.into_values() {
        if let Some(room) = share.place.room().filter(|room| *room < share.needed) {
            return Err(no_room(&share.names.join(" and "), share.needed, room));
        }
    }
    Ok(())
}

/// Bytes of `contents` that are no holes.
fn data_of(contents: &dyn Contents) -> Result<u64> {
    let (mut at, mut data) = (0, 0);
    while at < contents.len() {
        let found = contents.extent_at(at).map_err(cannot_read)?;
        data += if found.data { found.end - at } else { 0 };
        at = found.end;
    }
    Ok(data)
}

/// `names` may take `needed` bytes, and there are `room`.
pub(super) fn no_room(names: &str, needed: u64, room: u64) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!(
            "writing {names} needs up to {}, but there are {} left; make room, take another \
             directory, or try it nevertheless with --force",
            format_size(needed),
            format_size(room)
        ),
    )
}
