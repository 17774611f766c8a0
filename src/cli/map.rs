//! `synthdisk map`.

use super::args::SourceArgs;
use crate::Result;
use crate::bytes::ReadAt;
use crate::disk::{Region, RegionKind, Source};
use crate::image::ImageFile;
use crate::layout::SECTOR;
use crate::plan::{OverlayChoice, Plan, PlannedDisk};
use crate::text::printable;
use clap::Args;
use serde_json::{Value, json};
use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;

/// Arguments of `map`.
#[derive(Debug, Args)]
pub(super) struct MapArgs {
    /// Images of the guest's partitions: files or block devices, opened read-only; or one XVA
    #[arg(value_name = "IMAGE")]
    images: Vec<PathBuf>,

    #[command(flatten)]
    source: SourceArgs,

    /// Include the writes in this overlay, which must exist
    #[arg(long, value_name = "FILE", help_heading = "Overlay")]
    overlay: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Print the region table.
pub(super) fn run(args: MapArgs) -> Result<()> {
    let overlay = match args.overlay {
        Some(path) => {
            if let Err(e) = std::fs::metadata(&path) {
                let what = format!("cannot open the overlay {}", path.display());
                return Err(crate::Error::io(what, e));
            }
            OverlayChoice::File(path)
        }
        None => OverlayChoice::ReadOnly,
    };
    let plan = Plan::build(&args.source.into_options(args.images)?, &overlay)?;
    let text = if args.json { as_json(&plan) } else { printable(&as_table(&plan)).into_owned() };
    // A reader that exits early (head) does not count as an error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn as_table(plan: &Plan) -> String {
    let mut out = String::new();
    for planned in &plan.disks {
        if plan.disks.len() > 1 {
            out.push_str(&format!("{} ({})\n", planned.file, planned.vdev));
        }
        let line = |start: &dyn Display, len: &dyn Display, what: &str, from: &str| {
            format!("{start:>15} {len:>15}  {what:<12} {from}\n")
        };
        out.push_str(&line(&"START", &"LENGTH", "WHAT", "FROM"));
        for r in planned.disk.current_table().regions() {
            let what = match number(r) {
                Some(n) => format!("{} {n}", r.kind.as_str()),
                None => r.kind.as_str().to_owned(),
            };
            out.push_str(&line(&r.start, &r.len, &what, &r.origin));
        }
        for files in image_files(planned).iter().filter_map(|files| ImageFile::describe(files)) {
            out.push_str(&format!("image files: {files}\n"));
        }
    }
    out
}

/// The files of each image that the disk shows.
fn image_files(planned: &PlannedDisk) -> Vec<Vec<ImageFile>> {
    let mut found: Vec<Vec<ImageFile>> = Vec::new();
    for region in planned.disk.current_table().regions() {
        let Source::Image { image, .. } = &region.source else { continue };
        let files = image.files();
        if !found.contains(&files) {
            found.push(files);
        }
    }
    found
}

fn number(region: &Region) -> Option<u32> {
    match region.kind {
        RegionKind::Partition(n) | RegionKind::SwapHeader(n) => Some(n),
        _ => None,
    }
}

fn disk_json(planned: &PlannedDisk) -> Value {
    let table = planned.disk.current_table();
    let regions: Vec<_> = table
        .regions()
        .iter()
        .map(|r| {
            json!({
                "start": r.start,
                "length": r.len,
                "kind": r.kind.as_str(),
                "partition": number(r),
                "origin": r.origin,
            })
        })
        .collect();
    json!({
        "file": planned.file,
        "vdev": planned.vdev,
        "cdrom": planned.cdrom,
        "length": planned.disk.len(),
        "sector_size": SECTOR,
        "table": planned.layout.as_ref().map(|l| l.table),
        "disk_id": planned.ids.map(|ids| format!("{:08x}", ids.disk_id)),
        "disk_guid": planned.ids.map(|ids| ids.disk_guid),
        "swap_uuid": planned.ids.map(|ids| ids.swap_uuid),
        "partitions": planned.layout.as_ref().map(|l| &l.partitions),
        "regions": regions,
        "image_files": image_files(planned),
    })
}

fn as_json(plan: &Plan) -> String {
    let boot = plan.boot.as_ref().map(|b| {
        json!({
            "title": b.title,
            "kernel": b.kernel,
            "kernel_version": b.kernel_version,
            "initrds": b.initrds,
            "cmdline": b.cmdline,
            "notes": b.notes,
            "warnings": b.warnings,
            "hardware": { "bus": b.hardware.bus.name(), "nic": b.hardware.nic.name() },
        })
    });
    let mut value = json!({
        "name": plan.name,
        "images": plan.images,
        "boot": boot,
        "notes": plan.notes,
        "disks": plan.disks.iter().map(disk_json).collect::<Vec<_>>(),
    });
    // The first disk's fields are also at the top level: most guests have one disk.
    if let (Some(top), Value::Object(first)) = (value.as_object_mut(), disk_json(&plan.disks[0])) {
        top.extend(first);
    }
    format!("{value:#}\n")
}
