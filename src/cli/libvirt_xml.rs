//! `synthdisk libvirt-xml`.

use crate::disk::temporary_dir;
use crate::export::status_disks;
use crate::fuse::LiveMount;
use crate::libvirt::domain_xml;
use crate::loader::{FirmwareSet, LoaderKind};
use crate::plan::{OverlayChoice, Plan, SourceOptions};
use crate::qemu::{Board, DiskBus, NicModel, allowed_by_kernel};
use crate::run::machine::{DiskPlace, GuestDisks, MachineOptions, Net, check_buses, describe};
use crate::text::in_a_line;
use crate::xen::DomainConfig;
use crate::{Error, Result};
use clap::{Args, ValueEnum};
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

    /// Firmware that the disks will be mounted for; a mount that exists knows its own [default: bios]
    #[arg(long, value_enum)]
    firmware: Option<FirmwareSet>,
}

/// Print the definition on standard output, and notes on standard error.
pub(super) fn run(args: &LibvirtXmlArgs) -> Result<()> {
    let domain = DomainConfig::load(&args.config)?;
    for note in domain.notes.iter().chain(domain.disks.iter().flat_map(|d| &d.notes)) {
        eprintln!("note:    {}", in_a_line(&note.to_string()));
    }
    let name = super::run::guest_name(Some(&domain), &args.config);
    let dir = match &args.mountpoint {
        Some(dir) => std::path::absolute(dir)
            .map_err(|e| Error::io(format!("cannot use {}", dir.display()), e))?,
        None => PathBuf::from("/run/synthdisk").join(name.replace('/', "_")),
    };
    // An existing mount lists its own disks.
    let (disks, bus, nic, firmware) = match LiveMount::at(&dir)?.map(|mount| mount.status) {
        Some(status) => (
            status.disks,
            status.bus.as_deref().and_then(DiskBus::from_name).unwrap_or_default(),
            status.nic.as_deref().and_then(NicModel::from_name).unwrap_or_default(),
            status.firmware,
        ),
        None => {
            eprintln!(
                "note:    the disks are expected in {}; before the guest starts, run: synthdisk \
                 mount -o allow_other,uid=libvirt-qemu,gid=kvm,umask=007 {}--config {} {}",
                dir.display(),
                firmware_option(args.firmware),
                args.config.display(),
                dir.display()
            );
            let plan = planned(args)?;
            let hardware = plan.boot.as_ref().map(|boot| boot.hardware).unwrap_or_default();
            (status_disks(&plan), hardware.bus, hardware.nic, plan.firmware)
        }
    };
    let firmware = &firmware.find(Board::default())?;
    let guest = GuestDisks { place: DiskPlace::Directory(&dir), disks: &disks, bus, nic, firmware };
    let options =
        MachineOptions { net: Net::Bridge, aio: allowed_by_kernel(), ..MachineOptions::default() };
    let machine = describe(&name, Some(&domain), guest, &options);
    check_buses(&machine)?;
    let xml = domain_xml(&machine)?;
    std::io::stdout()
        .write_all(xml.as_bytes())
        .map_err(|e| Error::io("cannot print the definition", e))
}

/// `--firmware` as it was given, and a space.
fn firmware_option(firmware: Option<FirmwareSet>) -> String {
    let value = firmware.and_then(|set| set.to_possible_value());
    value.map_or_else(String::new, |value| format!("--firmware {} ", value.get_name()))
}

/// The plan that a mount of the config would make. A guest without a kernel still has disks.
fn planned(args: &LibvirtXmlArgs) -> Result<Plan> {
    let mut source = SourceOptions {
        config: Some(args.config.clone()),
        firmware: args.firmware,
        ..SourceOptions::default()
    };
    let overlay = OverlayChoice::Temporary(temporary_dir());
    Plan::build(&source, &overlay).or_else(|e| {
        source.bootloader = Some(LoaderKind::none());
        let plan = Plan::build(&source, &overlay)?;
        eprintln!(
            "note:    nothing is known of the devices that the guest needs: {}",
            in_a_line(&e.to_string())
        );
        Ok(plan)
    })
}
