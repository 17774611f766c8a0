//! The new file of a disk, as QEMU has it and as we do.

use super::disk::SettleDisk;
use super::jobs::{await_end, text};
use super::names::{Names, PREFIX};
use crate::Result;
use crate::finalize::OutputFormat;
use crate::qemu::Qmp;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, DynStorage, FormatAccess, FormatDriverBuilder};
use serde_json::{Value, json};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes of the boot area that are compared at a time.
const STEP: u64 = 1 << 20;

/// Give QEMU the new file of `disk`, which becomes an image of its format.
pub(super) fn prepare(qmp: &mut Qmp<'_>, disk: &SettleDisk, names: &Names) -> Result<u64> {
    let failed = |e| disk.file.output().failed(e);
    if disk.format == OutputFormat::Raw {
        disk.file.file().set_len(disk.len).map_err(failed)?;
    }
    let fdset = qmp.add_fd(disk.file.file().as_fd(), PREFIX)?;
    attach_file(qmp, names, fdset)?;
    if disk.format != OutputFormat::Raw {
        let options = json!({
            "driver": disk.format.name(), "file": names.protocol(), "size": disk.len,
        });
        let arguments = json!({ "job-id": names.creation(), "options": options });
        qmp.execute("blockdev-create", arguments)?;
        await_end(qmp, &names.creation())?;
    }
    attach_image(qmp, disk.format, names)?;
    Ok(fdset)
}

/// Make QEMU open the file again.
pub(super) fn attach(
    qmp: &mut Qmp<'_>,
    format: OutputFormat,
    names: &Names,
    fdset: u64,
) -> Result<()> {
    attach_file(qmp, names, fdset)?;
    attach_image(qmp, format, names)
}

fn attach_file(qmp: &mut Qmp<'_>, names: &Names, fdset: u64) -> Result<()> {
    let node = json!({
        "driver": "file", "node-name": names.protocol(), "filename": format!("/dev/fdset/{fdset}"),
        // Otherwise zeros would occupy storage.
        "discard": "unmap",
    });
    qmp.execute("blockdev-add", node).map(drop)
}

fn attach_image(qmp: &mut Qmp<'_>, format: OutputFormat, names: &Names) -> Result<()> {
    let node = json!({
        "driver": format.name(), "node-name": names.node(), "file": names.protocol(),
        "discard": "unmap",
    });
    qmp.execute("blockdev-add", node).map(drop)
}

/// Make QEMU close the file, if it has it open.
pub(super) fn detach(qmp: &mut Qmp<'_>, names: &Names) -> Result<()> {
    let present = nodes(qmp)?;
    for node in [names.node().to_owned(), names.protocol()] {
        if present.contains(&node) {
            qmp.execute("blockdev-del", json!({ "node-name": node }))?;
        }
    }
    Ok(())
}

/// Make QEMU close the files of earlier calls that it does not use.
pub(super) fn detach_unused(qmp: &mut Qmp<'_>) -> Result<()> {
    let mut ours: Vec<_> = nodes(qmp)?.into_iter().filter(|n| n.starts_with(PREFIX)).collect();
    // A disk's node before the node for its file, whose name starts with the same.
    ours.sort();
    for node in ours {
        // Refused for what is in use.
        let _ = qmp.execute("blockdev-del", json!({ "node-name": node }));
    }
    let sets = qmp.execute("query-fdsets", json!({}))?;
    for set in sets.as_array().into_iter().flatten() {
        let mut fds = set.get("fds").and_then(Value::as_array).into_iter().flatten();
        if fds.any(|fd| fd.get("opaque").and_then(Value::as_str) == Some(PREFIX)) {
            qmp.execute("remove-fd", json!({ "fdset-id": set.get("fdset-id") }))?;
        }
    }
    Ok(())
}

/// The names of all nodes.
fn nodes(qmp: &mut Qmp<'_>) -> Result<Vec<String>> {
    let nodes = qmp.execute("query-named-block-nodes", json!({ "flat": true }))?;
    let names = nodes.as_array().into_iter().flatten().filter_map(|n| text(n, "node-name"));
    Ok(names.map(str::to_owned).collect())
}

/// Forget the descriptor with which QEMU opens the file. What is open stays open.
pub(super) fn forget(qmp: &mut Qmp<'_>, fdset: u64) -> Result<Value> {
    qmp.execute("remove-fd", json!({ "fdset-id": fdset }))
}

/// Bytes of a disk that are read and written here.
trait Bytes {
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    fn write(&self, buf: &[u8], offset: u64) -> io::Result<()>;
}

impl Bytes for File {
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buf, offset)
    }

    fn write(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(buf, offset)
    }
}

/// The disk in a qcow2 file.
struct Qcow2Bytes(FormatAccess<Arc<dyn DynStorage>>);

impl Bytes for Qcow2Bytes {
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read(buf, offset)
    }

    fn write(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write(buf, offset)
    }
}

/// Store in the new file what the mount shows in the boot area now: while the disk was copied, it may
/// have been planned again. QEMU must not have a qcow2 file open.
pub(super) fn store_boot_area(disk: &SettleDisk) -> Result<()> {
    let failed = |e| disk.file.output().failed(e);
    let file = disk.file.file();
    if disk.format == OutputFormat::Raw {
        return update(&disk.shown, file, disk).map_err(failed);
    }
    let open = || -> io::Result<_> {
        let storage: Arc<dyn DynStorage> =
            Arc::new(imago::file::File::try_from(file.try_clone()?)?);
        let qcow2 = Qcow2::<Arc<dyn DynStorage>>::builder(storage).backing(None).write(true);
        Ok(Qcow2Bytes(FormatAccess::new(qcow2.open(DenyImplicitOpenGate::default())?)))
    };
    let image = open().map_err(failed)?;
    update(&disk.shown, &image, disk).map_err(failed)?;
    image.0.flush().map_err(failed)
}

/// Write to `to` the parts of the boot area in which it differs from `from`.
fn update(from: &File, to: &impl Bytes, disk: &SettleDisk) -> io::Result<()> {
    let area = &disk.boot_area;
    let (mut new, mut old) = (Vec::new(), Vec::new());
    let mut at = area.start;
    while at < area.end.min(disk.len) {
        let n = STEP.min(area.end.min(disk.len) - at) as usize;
        new.resize(n, 0);
        old.resize(n, 0);
        from.read(&mut new, at)?;
        to.read(&mut old, at)?;
        if new != old {
            to.write(&new, at)?;
        }
        at += n as u64;
    }
    Ok(())
}
