//! `synthdisk libvirt-xml`.

use crate::fuse::Status;
use crate::libvirt::domain_xml;
use crate::run::machine::disks_of;
use crate::xen::DomainConfig;
use crate::{Error, Result};
use clap::Args;
use std::io::Write;
use std::path::PathBuf;

/// Arguments of `libvirt-xml`.
#[derive(Debug, Args)]
pub(super) struct LibvirtXmlArgs {
    /// The domU config (xl.cfg)
    #[arg(long, value_name = "DOMU.cfg")]
    config: PathBuf,

    /// Directory on which the guest's disks are, or will be, mounted [default: /run/synthdisk/NAME]
    #[arg(long, value_name = "DIR")]
    mountpoint: Option<PathBuf>,
}

/// Print the definition on standard output, and notes on standard error.
pub(super) fn run(args: &LibvirtXmlArgs) -> Result<()> {
    let domain = DomainConfig::load(&args.config)?;
    for note in domain.notes.iter().chain(domain.disks.iter().flat_map(|d| &d.notes)) {
        eprintln!("note:    {note}");
    }
    let name = super::run::guest_name(Some(&domain), &args.config);
    let dir = match &args.mountpoint {
        Some(dir) => std::path::absolute(dir)
            .map_err(|e| Error::io(format!("cannot use {}", dir.display()), e))?,
        None => PathBuf::from("/run/synthdisk").join(name.replace('/', "_")),
    };
    // A mount that exists lists its own disks.
    let disks = match Status::read(&dir)? {
        Some(status) => status.disks,
        None => {
            eprintln!(
                "note:    the disks are expected in {}; before the guest starts, run: synthdisk \
                 mount -o allow_other --config {} {}",
                dir.display(),
                args.config.display(),
                dir.display()
            );
            disks_of(&domain)?
        }
    };
    let xml = domain_xml(&name, &domain, &dir, &disks)?;
    std::io::stdout()
        .write_all(xml.as_bytes())
        .map_err(|e| Error::io("cannot print the definition", e))
}
