//! The disk with the files for cloud-init.

use super::options::CloudInitFiles;
use super::planned_disk::PlannedDisk;
use crate::disk::{Disk, Region, RegionKind, RegionTable, Source};
use crate::identity::Hostname;
use crate::layout::{Ids, SEED_FILE_MAX, Seed};
use crate::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Name of the cloud-init disk in a mount.
pub const CIDATA_FILE: &str = "cidata.raw";

/// Valid starts of user-data (cloud-init, `cloudinit/handlers`), in lower case; matched
/// case-insensitively.
const BEGINNINGS: [&[u8]; 11] = [
    b"#cloud-config",
    b"#!",
    b"#include",
    b"#cloud-boothook",
    b"#part-handler",
    b"#upstart-job",
    b"## template:",
    b"content-type:",
    b"mime-version:",
    b"from ",
    b"\x1f\x8b",
];

/// The disk with the files in `wanted`, for a guest called `hostname`.
///
/// # Errors
/// Errors from reading the files; `TooLarge`.
pub(super) fn seed_disk(
    wanted: &CloudInitFiles,
    hostname: Option<&Hostname>,
    notes: &mut Vec<String>,
) -> Result<PlannedDisk> {
    let user_data = read(&wanted.user_data)?;
    let head = user_data.get(..64).unwrap_or(&user_data).to_ascii_lowercase();
    if !BEGINNINGS.iter().any(|beginning| head.starts_with(beginning)) {
        notes.push(format!(
            "cloud-init will not recognise {}: it begins neither with #cloud-config nor with #! \
             nor as a MIME message",
            wanted.user_data.display()
        ));
    }
    let network = wanted.network_config.as_deref().map(read).transpose()?;
    let meta_data = match &wanted.meta_data {
        Some(path) => {
            let bytes = read(path)?;
            let has_id = String::from_utf8_lossy(&bytes).contains("instance-id");
            if !has_id {
                notes.push(format!(
                    "{} has no instance-id, without which cloud-init ignores it",
                    path.display()
                ));
            }
            bytes
        }
        None => meta_data(&[&user_data, network.as_deref().unwrap_or_default()], hostname),
    };
    let seed =
        Seed { user_data: &user_data, meta_data: &meta_data, network_config: network.as_deref() };
    let mut bytes = seed.disk()?;
    let len = bytes.len() as u64;
    // Trailing zeros are not kept in memory.
    let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1).next_multiple_of(4096);
    bytes.truncate(used);
    let origin = format!("cloud-init's {wanted}");
    let region =
        |start, len, origin, source| Region { start, len, kind: RegionKind::Image, origin, source };
    let used = bytes.len() as u64;
    let mut regions = vec![region(0, used, origin, Source::Bytes(bytes.into()))];
    if len > used {
        regions.push(region(used, len - used, "zeros".into(), Source::Zeros));
    }
    Ok(PlannedDisk {
        file: CIDATA_FILE.into(),
        vdev: "cidata".into(),
        letters: String::new(),
        disk: Arc::new(Disk::new(RegionTable::new(regions)?, None)),
        layout: None,
        ids: None,
        overlay: None,
        cdrom: false,
    })
}

/// The minimal meta-data that cloud-init accepts: an instance ID that changes with the other files.
fn meta_data(parts: &[&[u8]], hostname: Option<&Hostname>) -> Vec<u8> {
    let name = hostname.map_or("", Hostname::as_str);
    let id = Ids::fingerprint(&[parts, &[name.as_bytes()]].concat());
    let mut text = format!("instance-id: {id}\n");
    if !name.is_empty() {
        // Quoted so that a hostname of digits does not become a number.
        text.push_str(&format!("local-hostname: \"{name}\"\n"));
    }
    text.into_bytes()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |e| Error::io(format!("cannot read {} for cloud-init", path.display()), e);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|f| f.take(SEED_FILE_MAX + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_it_is() {
        let name = Hostname::parse("web2").unwrap();
        let text = |user: &[u8], name| String::from_utf8(meta_data(&[user], name)).unwrap();
        assert_eq!(text(b"a", None), text(b"a", None));
        assert!(text(b"a", Some(&name)).ends_with("\nlocal-hostname: \"web2\"\n"));
        let id = |text: String| text.lines().next().unwrap().to_owned();
        assert_ne!(id(text(b"a", None)), id(text(b"b", None)));
        assert_ne!(id(text(b"a", None)), id(text(b"a", Some(&name))));
    }
}
