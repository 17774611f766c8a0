//! `synthdisk serve`.

use super::args::{OverlayArgs, SourceArgs};
use super::identity::IdentityArgs;
use super::mount::{in_foreground, qemu_line, start};
use crate::daemon::{Background, ExportRequest, MountReport, MountRequest, NbdRequest};
use crate::nbd::NbdAddress;
use crate::sandbox::Mode;
use crate::text::printable;
use crate::xen::DomainConfig;
use crate::{Error, ErrorKind, Result};
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Images of the guest's partitions (files or block devices, opened read-only)
    #[arg(value_name = "IMAGE")]
    images: Vec<PathBuf>,

    /// Serve on this Unix socket, which only its owner can use, until a signal ends this
    #[arg(long, value_name = "SOCKET", value_parser = NbdAddress::parse, help_heading = "Server")]
    nbd: NbdAddress,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    identity: IdentityArgs,

    #[command(flatten)]
    overlay: OverlayArgs,

    /// How the process that serves the disks is confined
    #[arg(long, value_name = "MODE", default_value = "auto", help_heading = "Server")]
    sandbox: Mode,

    /// Stay in the foreground
    #[arg(short, long, help_heading = "Server")]
    foreground: bool,

    /// Append messages about errors while serving to this file, which only its owner can read
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    log: Option<PathBuf>,

    /// Print what was changed in the guest's command line, and why
    #[arg(short, long, help_heading = "Server")]
    verbose: bool,
}

/// Serve, and return once clients can connect (or serving has ended, with `--foreground`).
pub(super) fn run(args: ServeArgs) -> Result<()> {
    let read_only = args.overlay.read_only;
    if let Some(option) = args.identity.given().filter(|_| read_only) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{option} needs a writable overlay; drop --read-only"),
        ));
    }
    let mut source = args.source.into_options(args.images)?;
    source.identity = args.identity.read()?;
    let request = MountRequest {
        // A guest with a new identity must not boot with its old one.
        must_adapt: !source.identity.is_empty(),
        source,
        overlay_limit: args.overlay.overlay_limit,
        overlay: args.overlay.choice(read_only),
        export: ExportRequest::Nbd(NbdRequest { address: args.nbd, read_only }),
        sandbox: args.sandbox,
        log: args.log,
        background: if args.foreground { Background::Stay } else { Background::Detach },
    };
    let domain = request.source.config.as_deref().map(DomainConfig::load).transpose()?;
    let verbose = args.verbose;
    let print = |report: &MountReport| {
        // A closed output is no reason to give up a working server.
        let try_it = qemu_line(report, domain.as_ref());
        let text = format!("{}try it:  {try_it}", report.text(verbose));
        let _ = writeln!(std::io::stderr(), "{}", printable(&text));
        let uri = report.uri.as_deref().unwrap_or_default();
        let _ = writeln!(std::io::stdout(), "{uri}");
    };
    // For lists of processes.
    let place = match &request.export {
        ExportRequest::Nbd(NbdRequest { address: NbdAddress::Unix(path), .. }) => path.clone(),
        ExportRequest::Mount(_) => PathBuf::new(),
    };
    match request.background {
        Background::Stay => in_foreground(&request, Path::new(""), |report| {
            print(report);
            Ok(())
        }),
        Background::Detach => start(&request, &place).map(|report| print(&report)),
    }
}
