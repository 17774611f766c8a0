//! Which disks of a mount are settled: where QEMU has them, and the files that they will be in.

use super::disk::{Place, SettleDisk};
use super::jobs::text;
use crate::export::StatusDisk;
use crate::finalize::{
    Destination, NewFile, OpenFile, OutputFormat, Wanted, check_room, choose_live,
};
use crate::fuse::LiveMount;
use crate::qemu::Qmp;
use crate::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The disks that are settled.
#[derive(Debug)]
pub struct Settling {
    /// The disks.
    pub disks: Vec<SettleDisk>,
    /// The guest's names of those that stay in the mount: they are read-only, or were not wanted.
    pub left: Vec<String>,
}

/// Make a new file for each disk of `live` that is `wanted`, and that QEMU has in the place that
/// `place` says. Without `force`, no file is replaced, and there must be room for all data.
///
/// # Errors
/// [`ErrorKind::Usage`] for a format that cannot be written so; [`ErrorKind::Invalid`] if there is no
/// disk that can be written to; errors of choosing and creating the files.
pub fn prepare_files(
    live: &LiveMount,
    wanted: &Wanted<'_>,
    force: bool,
    mut place: impl FnMut(usize, &StatusDisk) -> Result<Place>,
) -> Result<Settling> {
    if !matches!(wanted.format, OutputFormat::Raw | OutputFormat::Qcow2) {
        let what = format!(
            "a guest can only settle in raw and qcow2 files, not in {}; `synthdisk finalize` writes \
             others, and `qemu-img convert` makes one later",
            wanted.format.name()
        );
        return Err(Error::new(ErrorKind::Usage, what));
    }
    let status = &live.status;
    let mut chosen = Vec::new();
    for output in choose_live(live, wanted, force)? {
        let disk = &status.disks[output.index];
        if disk.read_only {
            continue;
        }
        let failed = |e| Error::io(format!("cannot read {}", disk.file), e);
        let shown = live.open(&disk.file).map_err(failed)?;
        let contents = OpenFile::new(shown.try_clone().map_err(failed)?).map_err(failed)?;
        chosen.push((output, contents, shown));
    }
    if chosen.is_empty() {
        let what = "no disk of this guest can be written to, so it can be finalized at any time; \
                    nothing has to settle";
        return Err(Error::new(ErrorKind::Invalid, what));
    }
    if !force {
        check_room(chosen.iter().map(|(output, contents, _)| (contents as _, &output.target)))?;
    }
    let is_left = |i: &usize| chosen.iter().all(|(output, ..)| output.index != *i);
    let left = (0..status.disks.len()).filter(is_left);
    let left = left.map(|i| status.disks[i].vdev.clone()).collect();
    let mut disks = Vec::new();
    for (output, _, shown) in chosen {
        let disk = &status.disks[output.index];
        let path = match output.target {
            Destination::File(path) => path,
            Destination::Device(path) => {
                let what = format!(
                    "{} is a block device, and a guest can only settle in files; `synthdisk \
                     finalize` writes devices",
                    path.display()
                );
                return Err(Error::new(ErrorKind::Usage, what));
            }
        };
        let boot_area = disk.boot_area.map_or(0..0, |(start, end)| start..end);
        let len = shown.metadata().map_err(|e| Error::io("cannot read the disk", e))?.len();
        disks.push(SettleDisk {
            place: place(output.index, disk)?,
            shown,
            len,
            boot_area,
            format: wanted.format,
            file: NewFile::create(path)?,
        });
    }
    Ok(Settling { disks, left })
}

/// A disk that a QEMU has open.
struct InQemu {
    place: Place,
    /// The file, as QEMU calls it.
    file: PathBuf,
    is_read_only: bool,
}

/// For each file of `live` that QEMU has open, in the order of the status's disks: its place.
///
/// # Errors
/// As [`Qmp::execute`].
pub fn disks_in_qemu(qmp: &mut Qmp<'_>, live: &LiveMount) -> Result<Vec<Option<Place>>> {
    let devices = qmp.execute("query-block", json!({}))?;
    let nodes = qmp.execute("query-named-block-nodes", json!({ "flat": true }))?;
    let open = open_disks(&devices, &nodes);
    let find = |disk: &StatusDisk| {
        let own = live.open(&disk.file).ok()?.metadata().ok()?;
        let same = |path: &Path| {
            path.metadata().is_ok_and(|m| (m.dev(), m.ino()) == (own.dev(), own.ino()))
        };
        let found = open.iter().find(|d| !d.is_read_only && same(&d.file))?;
        Some(found.place.clone())
    };
    Ok(live.status.disks.iter().map(find).collect())
}

/// Make QEMU close the disks of `live` that no device uses any more.
///
/// # Errors
/// As [`Qmp::execute`].
pub(super) fn leave_mount(qmp: &mut Qmp<'_>, live: &LiveMount) -> Result<()> {
    let nodes = qmp.execute("query-named-block-nodes", json!({ "flat": true }))?;
    let nodes = nodes.as_array().into_iter().flatten();
    let of_mount =
        nodes.filter(|n| text(n, "file").is_some_and(|f| Path::new(f).starts_with(&live.dir)));
    let named: Vec<_> = of_mount.filter_map(|n| text(n, "node-name")).collect();
    // Twice, because a node may be in use by another one of them. What a device uses is not closed.
    for node in named.iter().chain(&named) {
        let _ = qmp.execute("blockdev-del", json!({ "node-name": node }));
    }
    Ok(())
}

/// The disks in the answers to `query-block` and `query-named-block-nodes`.
fn open_disks(devices: &Value, nodes: &Value) -> Vec<InQemu> {
    let disk = |device: &Value| {
        let inserted = device.get("inserted")?;
        let file = text(inserted, "file")?;
        let node = text(inserted, "node-name").unwrap_or_default();
        let drive = text(device, "device").filter(|name| !name.is_empty());
        // Nodes whose names start with # are QEMU's own, and end with the last user.
        let is_ours = |name: &&str| !name.starts_with('#') && !name.is_empty();
        let of_file =
            nodes.as_array().into_iter().flatten().filter(|n| text(n, "file") == Some(file));
        let below = of_file.filter_map(|n| text(n, "node-name")).filter(|name| *name != node);
        let named = std::iter::once(node).chain(below).filter(is_ours);
        Some(InQemu {
            place: Place {
                device: drive.unwrap_or(node).to_owned(),
                nodes: named.map(str::to_owned).collect(),
            },
            file: file.into(),
            is_read_only: inserted.get("ro").and_then(Value::as_bool).unwrap_or(true),
        })
    };
    devices.as_array().into_iter().flatten().filter_map(disk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_found_by_drive_or_node() {
        let devices = json!([
            { "device": "d0", "inserted": { "file": "/m/disk.raw", "node-name": "#block12", "ro": false } },
            { "device": "", "inserted": { "file": "/m/disk-b.raw", "node-name": "b", "ro": false } },
            { "device": "cd", "inserted": { "file": "/m/cdrom-c.raw", "node-name": "#b3", "ro": true } },
            { "device": "empty" },
        ]);
        let nodes = json!([
            { "file": "/m/disk.raw", "node-name": "#block12" },
            { "file": "/m/disk-b.raw", "node-name": "b-file" },
            { "file": "/m/disk-b.raw", "node-name": "b" },
            { "file": "/m/other.raw", "node-name": "o" },
        ]);
        let found = open_disks(&devices, &nodes);
        let shown: Vec<_> = found
            .iter()
            .map(|d| (d.place.device.as_str(), d.place.nodes.join(" "), d.is_read_only))
            .collect();
        let expected = [
            ("d0", String::new(), false),
            ("b", "b b-file".to_owned(), false),
            ("cd", String::new(), true),
        ];
        assert_eq!(shown, expected);
        assert!(open_disks(&json!({}), &json!(null)).is_empty());
    }
}
