//! The files that are exported together, and the trait for serving them.

use super::file::ExportedFile;
use super::status::{Status, StatusDisk};
use super::volume::{ExportedVolume, Writes};
use crate::Result;
use crate::bytes::ReadAt;
use crate::plan::{Plan, PlannedDisk, PlannedVolume};
use crate::remote::RemoteUrl;
use crate::sandbox::Confined;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Serves the files of an [`ExportSet`]. FUSE is one implementation; another protocol would be
/// another type, in its own folder.
pub trait Export {
    /// Serve `set` until a client or an administrator ends it. `ready` is called when requests are
    /// answered and this process is confined, with what is in force; if it fails, the export ends.
    /// All disks are closed at the end.
    ///
    /// # Errors
    /// When the export cannot be set up, when the connection to its clients breaks, when `ready`
    /// fails, and when the last flush fails.
    fn serve(self, set: ExportSet, ready: impl FnOnce(&Confined) -> Result<()>) -> Result<()>;
}

/// What is exported together: the disks of one guest and their partitions.
#[derive(Clone, Debug)]
pub struct ExportSet {
    /// The files, in listing order.
    pub files: Vec<ExportedFile>,
    /// The status of the export; `None` for one that only this process uses.
    pub status: Option<Status>,
    /// The permissions of the images.
    pub images: ImageAccess,
    /// What a read may have to wait for.
    pub latency: Latency,
}

/// What a read of an exported file may have to wait for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Latency {
    /// Storage of this host.
    #[default]
    Storage,
    /// Another machine, for as long as seconds.
    Network,
}

impl ExportSet {
    /// The disks of `plan`, each as a whole disk followed by its partitions in order of their
    /// numbers; then the logical volumes on them.
    pub fn of_plan(plan: &Plan) -> Self {
        let mut files = Vec::new();
        for planned in &plan.disks {
            let mut add = |name: String, start, len| {
                let disk = Arc::clone(&planned.disk);
                files.push(ExportedFile::of_disk(name, disk, start, len));
            };
            add(planned.file.clone(), 0, planned.disk.len());
            for p in planned.layout.iter().flat_map(|l| &l.partitions) {
                add(planned.partition_file(p.number), p.start, p.len);
            }
        }
        files.extend(plan.volumes.iter().filter_map(|volume| volume_file(volume, &plan.disks)));
        let status = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            images: plan.images.clone(),
            overlays: plan.disks.iter().filter_map(|d| d.overlay.clone()).collect(),
            read_only: false,
            disks: status_disks(plan),
            bootloader: Some(plan.loader.name().into()),
            bus: plan.boot.as_ref().map(|boot| boot.hardware.bus.name().into()),
            nic: plan.boot.as_ref().map(|boot| boot.hardware.nic.name().into()),
            firmware: plan.firmware,
            sandbox: Confined::default(),
        };
        let is_remote = plan.images.iter().any(|name| RemoteUrl::of_path(name).is_some());
        let latency = if is_remote { Latency::Network } else { Latency::Storage };
        Self { files, status: Some(status), images: ImageAccess::of(&plan.images), latency }
    }

    /// Files that only this process uses, without a status.
    pub fn private(files: Vec<ExportedFile>) -> Self {
        let (images, latency) = (ImageAccess::default(), Latency::Storage);
        Self { files, status: None, images, latency }
    }

    /// Flush all acknowledged writes to stable storage.
    ///
    /// # Errors
    /// Errors of the overlays; disks after the first one that fails are not flushed.
    pub fn flush(&self) -> io::Result<()> {
        self.files.iter().filter_map(ExportedFile::whole).try_for_each(|disk| disk.flush())
    }

    /// Like [`flush`](Self::flush), at the end: nothing is written after this.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn close(&self) -> io::Result<()> {
        self.files.iter().filter_map(ExportedFile::whole).try_for_each(|disk| disk.close())
    }
}

/// The file that shows `volume`, which lies on `disks`.
fn volume_file(volume: &PlannedVolume, disks: &[PlannedDisk]) -> Option<ExportedFile> {
    let part = |(disk, number): &(usize, u32)| {
        let planned = disks.get(*disk)?;
        let mut partitions = planned.layout.iter().flat_map(|layout| &layout.partitions);
        let placed = partitions.find(|p| p.number == *number)?;
        Some((Arc::clone(&planned.disk), placed.start, placed.len))
    };
    let parts = volume.parts.iter().map(part).collect::<Option<_>>()?;
    let writes = if volume.read_only { Writes::Refuse } else { Writes::Allow };
    // The map was checked when the volume was found.
    let exported = ExportedVolume::new(volume.map.clone(), parts, writes).ok()?;
    Some(ExportedFile::of_volume(volume.file.clone(), exported))
}

/// The disks of `plan`, as a status lists them.
pub fn status_disks(plan: &Plan) -> Vec<StatusDisk> {
    plan.disks.iter().map(StatusDisk::of).collect()
}

impl StatusDisk {
    /// The status of `planned`.
    pub fn of(planned: &PlannedDisk) -> Self {
        Self {
            file: planned.file.clone(),
            vdev: planned.vdev.clone(),
            cdrom: planned.cdrom,
            read_only: planned.disk.is_read_only(),
            overlay_bytes: planned.disk.overlay_allocated(),
            overlay_limit: planned.disk.overlay_limit(),
            boot_area: planned.disk.planned().map(|area| (area.start, area.end)),
        }
    }
}

/// The permissions that all images have in common.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ImageAccess {
    /// Permission bits that every image has.
    mode: u32,
    /// The group, if all images have the same one.
    gid: Option<u32>,
}

impl ImageAccess {
    /// The common permissions of `images`; an image that cannot be examined grants no permissions.
    pub fn of(images: &[PathBuf]) -> Self {
        let all = images.iter().map(|path| {
            path.metadata().map_or((0, None), |meta| (meta.mode() & 0o777, Some(meta.gid())))
        });
        let common = all.reduce(|a, b| (a.0 & b.0, a.1.filter(|gid| b.1 == Some(*gid))));
        let (mode, gid) = common.unwrap_or_default();
        Self { mode, gid }
    }

    /// Permission bits for a file of group `gid` that shows the images: the owner may read and
    /// write it, and everyone else may do at most what every image permits them to do.
    pub fn mode_for(self, gid: u32) -> u16 {
        let (group, others) = if self.gid == Some(gid) {
            (self.mode & 0o060, self.mode & 0o006)
        } else {
            // Members of the images' group get its bits, all other users get the bits of others.
            // Here the two cannot be distinguished, so both get the bits that both have.
            let both = (self.mode >> 3) & self.mode & 0o006;
            (both << 3, both)
        };
        // At most 0o777.
        (0o600 | group | others) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_no_more_open_than_the_images() {
        let access = |mode, gid| ImageAccess { mode, gid };
        for (images, gid, expected) in [
            (access(0o600, Some(0)), 0, 0o600),
            (access(0o644, Some(0)), 0, 0o644),
            (access(0o644, Some(0)), 7, 0o644),
            (access(0o660, Some(6)), 6, 0o660),
            (access(0o660, Some(6)), 7, 0o600),
            (access(0o666, None), 7, 0o666),
            // The images' group may not read, and its members cannot be distinguished here.
            (access(0o604, Some(6)), 7, 0o600),
            (access(0o604, Some(6)), 6, 0o604),
            (access(0o400, Some(0)), 0, 0o600),
        ] {
            assert_eq!(images.mode_for(gid), expected, "{images:?} {gid}");
        }
        assert_eq!(ImageAccess::default().mode_for(0), 0o600);
    }

    #[test]
    fn images_have_in_common_what_each_has() {
        let dir = tempfile::tempdir().unwrap();
        let with = |name: &str, mode| {
            let path = dir.path().join(name);
            std::fs::write(&path, b"").unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&path, mode).unwrap();
            path
        };
        let (open, group) = (with("a", 0o644), with("b", 0o460));
        let gid = open.metadata().unwrap().gid();
        assert_eq!(
            ImageAccess::of(&[open.clone(), group]),
            ImageAccess { mode: 0o440, gid: Some(gid) }
        );
        let missing = ImageAccess::of(&[open, dir.path().join("missing")]);
        assert_eq!(missing, ImageAccess { mode: 0, gid: None });
    }
}
