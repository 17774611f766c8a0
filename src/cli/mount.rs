//! `synthdisk mount`.

mod background;
mod log;
mod serve;
mod try_it;

pub(super) use serve::{answered, files, internal};

use super::args::SourceArgs;
use super::helper::MountList;
use super::identity::IdentityArgs;
use crate::daemon::{Background, MountReport, MountRequest};
use crate::disk::temporary_dir;
use crate::fuse::MountOptions;
use crate::plan::OverlayChoice;
use crate::text::printable;
use crate::{Error, ErrorKind, Result};
use clap::parser::ValueSource;
use clap::{Args, FromArgMatches, Parser};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Arguments of `mount`.
#[derive(Debug, Args)]
pub(super) struct MountArgs {
    /// Images of the guest's partitions (files or block devices, opened read-only), then the
    /// directory to mount on
    #[arg(value_name = "IMAGE... MOUNTPOINT", required = true)]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    identity: IdentityArgs,

    /// Keep writes in this qcow2 file, created on first use; without it they are gone at unmount
    #[arg(long, value_name = "FILE", conflicts_with = "read_only")]
    overlay: Option<PathBuf>,

    /// As --overlay, with a file for each disk in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["overlay", "read_only"])]
    overlay_dir: Option<PathBuf>,

    /// Refuse all writes
    #[arg(long)]
    read_only: bool,

    /// Mount options: allow_other, ro, uid=N, gid=N, umask=N, default_permissions, and any of the
    /// long options as name=value
    #[arg(short, long, value_name = "OPTIONS")]
    options: Vec<OsString>,

    /// Stay in the foreground
    #[arg(short, long)]
    foreground: bool,

    /// Append messages about errors while serving to this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// Print what was changed in the guest's command line, and why
    #[arg(short, long)]
    verbose: bool,
}

/// For parsing the arguments once more, with what `-o` stands for added.
#[derive(Debug, Parser)]
struct Again {
    #[command(flatten)]
    mount: MountArgs,
}

impl MountArgs {
    /// The mount's own options, with all others of `-o` turned into the arguments they stand for.
    fn resolve(mut self) -> Result<(Self, MountOptions)> {
        let mut options = MountOptions::default();
        let mut long = Vec::new();
        for text in std::mem::take(&mut self.options) {
            let list = MountList::parse(&text)?;
            long.extend(list.long);
            for option in &list.own {
                options.take(option)?;
            }
        }
        if !long.is_empty() {
            let mut matches = <Again as clap::CommandFactory>::command()
                .mut_args(|a| a.required(false))
                .no_binary_name(true)
                .try_get_matches_from(long)
                .map_err(|e| Error::with_source(ErrorKind::Usage, "in -o", e))?;
            // What `-o` does not mention keeps its value; a default would replace it.
            let ids: Vec<String> = matches.ids().map(ToString::to_string).collect();
            for id in ids {
                if matches.value_source(&id) == Some(ValueSource::DefaultValue) {
                    let _ = matches.try_clear_id(&id); // the id is known
                }
            }
            self.update_from_arg_matches_mut(&mut matches)
                .map_err(|e| Error::with_source(ErrorKind::Usage, "in -o", e))?;
        }
        options.read_only |= self.read_only;
        if options.read_only && (self.overlay.is_some() || self.overlay_dir.is_some()) {
            return Err(Error::new(
                ErrorKind::Usage,
                "a read-only mount writes to no overlay; leave out one of the two",
            ));
        }
        if let Some(option) = self.identity.given().filter(|_| options.read_only) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "{option} edits the guest in an overlay, and a read-only mount has none; leave \
                     out one of the two"
                ),
            ));
        }
        Ok((self, options))
    }
}

/// Mount, and return once the disks can be used (or the mount has ended, with `--foreground`).
pub(super) fn run(args: MountArgs) -> Result<()> {
    let (args, options) = args.resolve()?;
    let mut images = args.paths;
    // clap has seen to it that there is one path at least.
    let mountpoint = images.pop().unwrap_or_default();
    let mut source = args.source.into_options(images)?;
    source.identity = args.identity.read()?;
    let overlay = match (args.overlay, args.overlay_dir) {
        (Some(path), _) => OverlayChoice::File(path),
        (None, Some(dir)) => OverlayChoice::Dir(dir),
        (None, None) if options.read_only => OverlayChoice::ReadOnly,
        (None, None) => OverlayChoice::Temporary(temporary_dir()),
    };
    let request = MountRequest {
        // A guest that is asked to be another machine must not boot as the one that it was.
        must_adapt: !source.identity.is_empty(),
        source,
        overlay,
        options,
        log: args.log,
        background: if args.foreground { Background::Stay } else { Background::Detach },
    };
    match request.background {
        Background::Stay => serve::mount(request, &mountpoint, |report| {
            print(report, &mountpoint, args.verbose);
            Ok(())
        }),
        Background::Detach => {
            let report = background::start(&request, &mountpoint)?;
            print(&report, &mountpoint, args.verbose);
            Ok(())
        }
    }
}

/// Say what was mounted: for a person on standard error, the disk's path on standard output.
/// `shown` is the mount point as it was typed.
fn print(report: &MountReport, shown: &Path, verbose: bool) {
    let text = format!("{}try it:  {}", report.text(verbose), try_it::qemu_line(report));
    // Closed output is no reason to give up a mount that works.
    let _ = writeln!(std::io::stderr(), "{}", printable(&text));
    let _ = writeln!(std::io::stdout(), "{}", shown.join("disk.raw").display());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(words: &[&str]) -> Result<(MountArgs, MountOptions)> {
        let args = Again::parse_from(std::iter::once(&"mount").chain(words)).mount;
        args.resolve()
    }

    #[test]
    fn mount_options_add_to_the_long_ones() {
        let words = ["--force", "--adapt=none", "--append=quiet", "img", "/mnt"];
        let more = ["-o", "ro,swap=1G", "-o", "uid=5"];
        let (args, options) = resolve(&[&words[..], &more].concat()).unwrap();
        assert!(options.read_only && options.uid == Some(5));
        assert!(args.source.force(), "-o took --force away");
        let source = args.source.into_options(args.paths).unwrap();
        assert!(source.adapt.is_none(), "-o took --adapt away");
        assert_eq!((source.swap, source.append.as_deref()), (Some(1 << 30), Some("quiet")));
        for wrong in ["ro,overlay=/x", "ro,hostname=web2", "swap=x", "foreground"] {
            let e = resolve(&["img", "/mnt", "-o", wrong]).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Usage, "{wrong}: {e}");
        }
    }
}
