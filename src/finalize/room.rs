//! Checks that there is space for all results before the first byte is written.

use super::contents::Contents;
use super::destination::{Destination, OutputPath};
use super::errors::{cannot_read, no_room};
use crate::Result;
use std::collections::BTreeMap;

/// The data to be written to one filesystem.
struct Demand<'a> {
    output: &'a OutputPath,
    names: Vec<String>,
    needed: u64,
}

/// Refuse if the data of all `outputs`, none of which shares blocks or is compressed, may not fit
/// on their filesystems. Stored zeros count as data, because they have not been read yet.
///
/// # Errors
/// [`crate::ErrorKind::TooLarge`]; errors of looking up extents.
pub fn check_room<'a>(
    outputs: impl IntoIterator<Item = (&'a dyn Contents, &'a Destination)>,
) -> Result<()> {
    let mut demands: BTreeMap<u64, Demand<'a>> = BTreeMap::new();
    for (contents, destination) in outputs {
        let Destination::File(output) = destination else { continue };
        let Some(filesystem) = output.filesystem() else { continue };
        let new = Demand { output, names: Vec::new(), needed: 0 };
        let demand = demands.entry(filesystem).or_insert(new);
        demand.names.push(output.path().display().to_string());
        demand.needed += data_of(contents)?;
    }
    for demand in demands.into_values() {
        if let Some(room) = demand.output.room().filter(|room| *room < demand.needed) {
            return Err(no_room(&demand.names.join(" and "), demand.needed, room));
        }
    }
    Ok(())
}

/// Bytes of `contents` outside holes.
fn data_of(contents: &dyn Contents) -> Result<u64> {
    let (mut at, mut data) = (0, 0);
    while at < contents.len() {
        let found = contents.extent_at(at).map_err(cannot_read)?;
        data += if found.data { found.end - at } else { 0 };
        at = found.end;
    }
    Ok(data)
}
