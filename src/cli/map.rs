//! `synthdisk map`.

use super::args::SourceArgs;
use super::pages;
use crate::Result;
use crate::bytes::ReadAt;
use crate::disk::{Region, RegionKind, Source};
use crate::image::ImageFile;
use crate::layout::SECTOR;
use crate::page::{Part, PartKind};
use crate::plan::{OverlayChoice, Plan, PlannedDisk};
use crate::text::printable;
use clap::Args;
use serde_json::{Value, json};
use std::fmt::Display;
use std::io::{IsTerminal, Write};
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
    let drawing = match !args.json && std::io::stdout().is_terminal() {
        true => Some(Colours::of_terminal()),
        false => None,
    };
    let text = match args.json {
        true => as_json(&plan),
        // Colours are added after guests' text was made harmless.
        false => as_table(&plan, drawing),
    };
    // A reader that exits early (head) does not count as an error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// Whether a drawing has colours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Colours {
    /// Those of ECMA-48.
    Some,
    /// None.
    None,
}

impl Colours {
    /// None if the user says so (no-color.org) or the terminal has none.
    fn of_terminal() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if refused || dumb { Self::None } else { Self::Some }
    }
}

/// How many characters a drawn disk has.
const DRAWN: u64 = 72;

/// The disk to scale: a run of characters for each of its parts, at least one.
fn drawn(parts: &[Part], colours: Colours) -> String {
    let total: u64 = parts.iter().map(|part| part.len).sum();
    let mut out = String::new();
    for part in parts {
        let scaled = u128::from(part.len) * u128::from(DRAWN) / u128::from(total.max(1));
        let width = usize::try_from(scaled).unwrap_or(0).max(1);
        let (sign, colour) = match part.kind {
            PartKind::Boot => ("▚", 35),
            PartKind::Data => ("█", 34),
            PartKind::Swap => ("▒", 33),
            PartKind::Gap => ("·", 90),
        };
        out.push_str(&match colours {
            Colours::Some => format!("\x1b[{colour}m{}\x1b[0m", sign.repeat(width)),
            Colours::None => sign.repeat(width),
        });
    }
    out + "\n  ▚ boot  █ data  ▒ swap  · gap\n"
}

/// `drawing`: how each disk is drawn above its table, if it is.
fn as_table(plan: &Plan, drawing: Option<Colours>) -> String {
    let mut all = String::new();
    for planned in &plan.disks {
        let mut out = String::new();
        if plan.disks.len() > 1 {
            out.push_str(&format!("{} ({})\n", planned.file, planned.vdev));
        }
        all.push_str(&printable(&out));
        out.clear();
        if let Some(colours) = drawing {
            all.push_str(&drawn(&pages::disk(planned).parts, colours));
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
        all.push_str(&printable(&out));
    }
    all
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_to_scale() {
        let part =
            |kind, len| Part { kind, start: 0, len, name: String::new(), origin: String::new() };
        let parts =
            [part(PartKind::Boot, 1), part(PartKind::Swap, 1 << 30), part(PartKind::Data, 3 << 30)];
        let bar = format!("▚{}{}", "▒".repeat(17), "█".repeat(53));
        assert_eq!(drawn(&parts, Colours::None).lines().next(), Some(&*bar));
        let coloured = drawn(&parts, Colours::Some);
        assert!(coloured.starts_with("\x1b[35m▚\x1b[0m\x1b[33m▒"), "{coloured}");
        drawn(&[part(PartKind::Data, u64::MAX / 2), part(PartKind::Gap, 0)], Colours::None);
    }
}
