//! `synthdisk settle`.

use super::finalize::frozen_kernel;
use crate::finalize::{OutputFormat, Progress, Wanted};
use crate::fuse::LiveMount;
use crate::layout::parse_size;
use crate::process::Stop;
use crate::qemu::Qmp;
use crate::settle::{Options, Settled, disks_in_qemu, prepare_files, recover, settle};
use crate::{Error, ErrorKind, Result};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `settle`.
#[derive(Debug, Args)]
pub(super) struct SettleArgs {
    /// Directory of the mount that the guest runs from
    mountpoint: PathBuf,

    /// Unix socket on which the guest's QEMU speaks QMP (-qmp unix:SOCKET,server=on,wait=off)
    #[arg(long, value_name = "SOCKET")]
    qmp: PathBuf,

    /// Write to this file; further disks of the guest go to files next to it (web1.raw,
    /// web1-b.raw). In a directory, each disk gets the name that it has in the mount
    #[arg(short, long, value_name = "FILE|DIR/")]
    output: PathBuf,

    /// File format: raw or qcow2 [default: by the output's extension, else raw]
    #[arg(long, value_enum, value_name = "raw|qcow2", hide_possible_values = true)]
    format: Option<OutputFormat>,

    /// Settle only this disk, named as in the guest (xvdb) or as in the mount
    #[arg(long, value_name = "DISK")]
    disk: Option<String>,

    /// Copy at most this much per second (20M)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    rate: Option<u64>,

    /// Replace existing files, and try even if there may not be enough space
    #[arg(long)]
    force: bool,

    /// Print only errors and results
    #[arg(short, long)]
    quiet: bool,
}

/// Copy the disks of a guest that runs, and make its QEMU go on with the copies.
pub(super) fn run(args: &SettleArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let shown = args.mountpoint.display();
    let live = LiveMount::at(&args.mountpoint)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("{shown} is not a synthdisk mount"))
    })?;
    let mut qmp = Qmp::connect(&args.qmp, Some(&stop))?;
    if recover(&mut qmp, &live)? && !args.quiet {
        eprintln!(
            "note:    an earlier `synthdisk settle` of this guest was killed; its copy is given up"
        );
    }
    let places = disks_in_qemu(&mut qmp, &live)?;
    let wanted = Wanted {
        output: &args.output,
        format: args.format.unwrap_or_else(|| OutputFormat::of_name(&args.output)),
        disk: args.disk.as_deref(),
        partition: None,
    };
    let settling = prepare_files(&live, &wanted, args.force, |index, disk| {
        places.get(index).cloned().flatten().ok_or_else(|| {
            let what = format!(
                "the QEMU at {} does not use {} of this mount for writing; it may have settled already",
                args.qmp.display(),
                disk.file
            );
            Error::new(ErrorKind::NotFound, what)
        })
    })?;
    let total = settling.disks.iter().map(|disk| disk.len).sum();
    let bar = Progress::new("settling", total, args.quiet);
    let options = Options { rate: args.rate };
    let settled = settle(&mut qmp, settling.disks, options, &mut |done, _| bar.set(done))?;
    drop(bar);
    if !args.quiet {
        eprint!("{}", report(&settled, &settling.left));
        if let Some(what) = live.status.bootloader.as_deref().and_then(frozen_kernel) {
            eprintln!("warning: {what}");
        }
    }
    settled.files.iter().for_each(|file| println!("{}", file.display()));
    Ok(())
}

/// What a person should know.
fn report(settled: &Settled, left: &[String]) -> String {
    let milliseconds = settled.pause.as_millis();
    let mut out = match settled.is_off {
        true => "settled: the guest is off\n".to_owned(),
        false => format!("settled: the guest was paused for {milliseconds} ms\n"),
    };
    match left {
        [] => out.push_str(
            "note:    nothing of the guest needs the mount any more; change its \
                            definition before it is started again\n",
        ),
        left => out.push_str(&format!(
            "note:    the guest still needs the mount for {}\n",
            left.join(", ")
        )),
    }
    out
}
