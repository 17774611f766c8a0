//! `synthdisk finalize`.

mod args;
mod live;
mod planned;
mod print;

pub(super) use args::FinalizeArgs;
pub(super) use planned::{frozen_kernel, prefer_grub};

use crate::finalize::{Conversion, OutputFormat, Pending, Reflink, Request};
use crate::fuse::LiveMount;
use crate::plan::OverlayChoice;
use crate::process::Stop;
use crate::remote::write_manifest;
use crate::{Error, ErrorKind, Result};
use live::write_live;
use planned::write_planned;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Write the disks to files.
pub(super) fn run(args: FinalizeArgs) -> Result<()> {
    let mut result = args.result;
    if args.delta.is_some() {
        result.format = Some(OutputFormat::Qcow2);
    }
    let conversion = Conversion {
        format: result.format(),
        compress: result.compress,
        options: result.options.clone(),
    };
    conversion.check()?;
    if result.reflink == Reflink::Always && result.format() != OutputFormat::Raw {
        return Err(Error::new(
            ErrorKind::Usage,
            "--reflink always goes with --format raw: other formats have blocks of their own",
        ));
    }
    let is_device = |path: &Path| path.metadata().is_ok_and(|m| m.file_type().is_block_device());
    if result.write_manifest && is_device(&result.output) {
        let what =
            "--write-manifest is for files, which can be uploaded; leave it out for a device";
        return Err(Error::new(ErrorKind::Usage, what));
    }
    // This must come before other threads exist.
    let stop = Stop::on_signals()?;
    let live = match (&args.source.config, &args.paths[..]) {
        (None, [path]) => LiveMount::at(path)?,
        _ => None,
    };
    let overlay = match (args.overlay.or(args.delta), args.overlay_dir) {
        (Some(file), _) => Some(OverlayChoice::File(file)),
        (None, dir) => dir.map(OverlayChoice::Dir),
    };
    let force = args.source.force();
    let request = Request {
        conversion: &conversion,
        reflink: result.reflink,
        verify: result.verify,
        checksum: result.checksum,
        force,
        quiet: result.quiet,
        stop: &stop,
    };
    let pending = match live {
        Some(_) if overlay.is_some() => {
            let what = "a mount has its overlay already; leave out --overlay, or name the images";
            return Err(Error::new(ErrorKind::Usage, what));
        }
        Some(_) if args.identity.given().is_some() => {
            let what = "options like --hostname edit a guest when it is mounted; give them to \
                        `synthdisk mount`, or name the images";
            return Err(Error::new(ErrorKind::Usage, what));
        }
        Some(_) if args.source.bootloader().is_some() => {
            let what = "a mount has its boot loader already; give --bootloader to \
                        `synthdisk mount`, or name the images and the overlay";
            return Err(Error::new(ErrorKind::Usage, what));
        }
        Some(live) => write_live(&live, &result, &request)?,
        None => {
            let mut options = args.source.into_options(args.paths)?;
            options.identity = args.identity.read()?;
            let backing = args.backing.as_deref();
            write_planned(options, overlay, backing, &result, &request)?
        }
    };
    let written = pending.into_iter().map(Pending::publish).collect::<Result<Vec<_>>>()?;
    if result.write_manifest {
        for one in &written {
            let mut to = one.path.clone().into_os_string();
            to.push(".manifest");
            write_manifest(&one.path, to.as_ref())?;
        }
    }
    print::results(&written, result.json, result.quiet);
    Ok(())
}
