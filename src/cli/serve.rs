//! `synthdisk serve`.

use super::args::{OverlayArgs, SourceArgs};
use super::identity::IdentityArgs;
use super::mount::{in_foreground, qemu_line, start};
use crate::daemon::{Background, ExportRequest, MountReport, MountRequest, NbdRequest};
use crate::nbd::{Encryption, NbdAddress};
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

    /// Serve on this Unix socket, which only its owner can use, or on a TCP port (nbds://HOST[:PORT];
    /// without TLS: nbd://HOST[:PORT], with --read-only)
    #[arg(long, value_name = "SOCKET|URI", value_parser = NbdAddress::parse)]
    #[arg(help_heading = "Server")]
    nbd: (NbdAddress, Encryption),

    /// Encrypt all connections, and admit only clients with a certificate: a directory with
    /// ca-cert.pem, server-cert.pem and server-key.pem
    #[arg(long, value_name = "DIR", help_heading = "Server")]
    tls_certificates: Option<PathBuf>,

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
    let nbd = server(args.nbd, args.tls_certificates, read_only)?;
    // For lists of processes.
    let place = match &nbd.address {
        NbdAddress::Unix(path) => path.clone(),
        address @ NbdAddress::Tcp { .. } => address.uri("", nbd.encryption).into(),
    };
    // The command for QEMU would need more options for others.
    let plain = nbd.encryption == Encryption::None && matches!(nbd.address, NbdAddress::Unix(_));
    let mut source = args.source.into_options(args.images)?;
    source.identity = args.identity.read()?;
    let request = MountRequest {
        // A guest with a new identity must not boot with its old one.
        must_adapt: !source.identity.is_empty(),
        source,
        overlay_limit: args.overlay.overlay_limit,
        overlay: args.overlay.choice(read_only),
        export: ExportRequest::Nbd(nbd),
        sandbox: args.sandbox,
        log: args.log,
        background: if args.foreground { Background::Stay } else { Background::Detach },
    };
    let domain = request.source.config.as_deref().map(DomainConfig::load).transpose()?;
    let verbose = args.verbose;
    let print = |report: &MountReport| {
        // A closed output is no reason to give up a working server.
        let mut text = report.text(verbose);
        if plain {
            text.push_str(&format!("try it:  {}\n", qemu_line(report, domain.as_ref())));
        }
        let _ = write!(std::io::stderr(), "{}", printable(&text));
        let uri = report.uri.as_deref().unwrap_or_default();
        let _ = writeln!(std::io::stdout(), "{uri}");
    };
    match request.background {
        Background::Stay => in_foreground(&request, Path::new(""), |report| {
            print(report);
            Ok(())
        }),
        Background::Detach => start(&request, &place).map(|report| print(&report)),
    }
}

/// The server that the options ask for.
///
/// # Errors
/// [`ErrorKind::Usage`] if it would let others write.
fn server(
    (address, asked): (NbdAddress, Encryption),
    certificates: Option<PathBuf>,
    read_only: bool,
) -> Result<NbdRequest> {
    let wrong = |what: &str| Err(Error::new(ErrorKind::Usage, what));
    let encryption = match (asked, &certificates) {
        (_, Some(_)) => Encryption::Tls,
        (Encryption::None, None) => Encryption::None,
        (Encryption::Tls, None) => {
            return wrong("nbds:// needs --tls-certificates, a directory with the server's key");
        }
    };
    if matches!(address, NbdAddress::Tcp { .. }) && encryption == Encryption::None && !read_only {
        return wrong(
            "on nbd://, everybody who reaches the port could write to the disks; use nbds:// with \
             --tls-certificates, a Unix socket, or --read-only",
        );
    }
    Ok(NbdRequest { address, encryption, certificates, read_only })
}
