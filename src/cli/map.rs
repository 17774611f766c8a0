//! `synthdisk map`.

use super::args::SourceArgs;
use crate::Result;
use crate::disk::{Region, RegionKind};
use crate::layout::SECTOR;
use crate::plan::{OverlayChoice, Plan};
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Arguments of `map`.
#[derive(Debug, Args)]
pub(super) struct MapArgs {
    /// Images of the guest's partitions: files or block devices, opened read-only
    #[arg(value_name = "IMAGE")]
    images: Vec<PathBuf>,

    #[command(flatten)]
    source: SourceArgs,

    /// Look through this overlay, which must exist
    #[arg(long, value_name = "FILE")]
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
    let text = if args.json { as_json(&plan) } else { as_table(&plan) };
    // A reader that has seen enough (head) is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn as_table(plan: &Plan) -> String {
    let table = plan.disk.current_table();
    let mut out = format!("{:>15} {:>15}  {:<12} {}\n", "START", "LENGTH", "WHAT", "FROM");
    for r in table.regions() {
        let what = match number(r) {
            Some(n) => format!("{} {n}", r.kind.as_str()),
            None => r.kind.as_str().to_owned(),
        };
        out.push_str(&format!("{:>15} {:>15}  {what:<12} {}\n", r.start, r.len, r.origin));
    }
    out
}

fn number(region: &Region) -> Option<u32> {
    match region.kind {
        RegionKind::Partition(n) | RegionKind::SwapHeader(n) => Some(n),
        _ => None,
    }
}

fn as_json(plan: &Plan) -> String {
    let table = plan.disk.current_table();
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
    let boot = plan.boot.as_ref().map(|b| {
        json!({
            "title": b.title,
            "kernel": b.kernel,
            "initrds": b.initrds,
            "cmdline": b.cmdline,
            "notes": b.notes,
        })
    });
    let value = json!({
        "length": plan.disk.len(),
        "sector_size": SECTOR,
        "disk_id": format!("{:08x}", plan.ids.disk_id),
        "swap_uuid": plan.ids.swap_uuid,
        "images": plan.images,
        "partitions": plan.layout.partitions,
        "regions": regions,
        "boot": boot,
    });
    format!("{value:#}\n")
}
