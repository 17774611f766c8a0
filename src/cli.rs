//! The command line: arguments, printing, exit codes. One file per subcommand.

mod adapt;
mod args;
mod exit_code;
mod fetch;
mod finalize;
mod generate;
mod helper;
mod identity;
mod inspect;
mod libvirt_xml;
mod map;
mod mount;
mod pages;
mod parse;
mod report;
mod run;
mod serve;
mod settle;
mod umount;

use crate::Result;
use crate::plan::examine::examine_with;
use crate::remote::fetch_with;
use crate::sandbox::{Mode, start_parser};
use crate::text::printable;
use clap::{CommandFactory, Parser, Subcommand};
use exit_code::Codes;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

/// Show a bootable whole disk made from untouched Xen partition images, without copying them
#[derive(Debug, Parser)]
#[command(name = "synthdisk", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount a directory that shows disk.raw and its partitions
    Mount(mount::MountArgs),
    /// Serve the disk and its partitions by NBD, which needs neither FUSE nor root
    Serve(serve::ServeArgs),
    /// Unmount, and wait until all writes are on stable storage
    #[command(visible_alias = "unmount")]
    Umount(umount::UmountArgs),
    /// Print where every byte of the disk comes from, without mounting
    Map(map::MapArgs),
    /// Report what is inside the guest and whether it will run on KVM
    Inspect(inspect::InspectArgs),
    /// Show the edits that a guest needs on KVM as a diff, or make them in an overlay
    Adapt(adapt::AdaptArgs),
    /// Write the disk to a file (raw, qcow2, VHD, VHDX, VMDK), exactly as disk.raw shows it
    Finalize(finalize::FinalizeArgs),
    /// Move the disks of a running guest from a mount to files, while it runs
    Settle(settle::SettleArgs),
    /// Boot the guest in QEMU and remove the mount afterwards
    Run(Box<run::RunArgs>),
    /// Merge the results of test boots that several processes wrote
    #[command(subcommand)]
    Report(report::ReportCommand),
    /// Print a libvirt domain definition for a domU config
    LibvirtXml(libvirt_xml::LibvirtXmlArgs),
    /// Write manual pages and shell completions
    Generate(generate::GenerateArgs),
    #[command(subcommand, hide = true)]
    Internal(run::Internal),
}

impl Command {
    fn exit_codes(&self) -> Codes {
        match self {
            Command::Run(args) if args.is_test() => Codes::TestBoots,
            Command::Report(_) => Codes::TestBoots,
            _ => Codes::Usual,
        }
    }
}

/// Whether `word` is the name of a subcommand.
fn is_subcommand(word: &OsStr) -> bool {
    word == "help"
        || Cli::command()
            .get_subcommands()
            .any(|c| c.get_name_and_visible_aliases().iter().any(|name| word == *name))
}

/// Run the command that the process was started with. Exit codes: 0 done, 1 failed, 2 wrong usage; for
/// test boots also 3, the host failed.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let args = match helper::translate(&args, is_subcommand) {
        Ok(Some(translated)) => translated,
        Ok(None) => args,
        Err(e) => {
            eprintln!("synthdisk: {}", printable(&e.to_string()));
            return ExitCode::from(2);
        }
    };
    examine_with(start_parser);
    fetch_with(Mode::Auto);
    let cli = Cli::parse_from(args);
    let codes = cli.command.exit_codes();
    let result: Result<()> = match cli.command {
        Command::Mount(args) => mount::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Umount(args) => umount::run(&args),
        Command::Map(args) => map::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Adapt(args) => adapt::run(args),
        Command::Finalize(args) => finalize::run(args),
        Command::Settle(args) => settle::run(&args),
        Command::Run(args) => run::run(*args),
        Command::Report(args) => report::run(args),
        Command::LibvirtXml(args) => libvirt_xml::run(&args),
        Command::Generate(args) => generate::run(args, Cli::command()),
        Command::Internal(args) => run::internal(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("synthdisk: {}", printable(&e.to_string()));
            ExitCode::from(exit_code::of(&e, codes))
        }
    }
}
