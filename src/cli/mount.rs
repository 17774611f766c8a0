//! `synthdisk mount`.

mod args;
mod background;
mod option_list;
mod serve;
mod try_it;

pub(super) use args::MountArgs;
pub(super) use background::start;
pub(super) use option_list::OptionList;
pub(super) use serve::{answered, internal, mount as in_foreground};
pub(super) use try_it::qemu_line;

use crate::daemon::{Background, ExportRequest, MountReport, MountRequest};
use crate::fuse::MountOptions;
use crate::text::printable;
use crate::xen::DomainConfig;
use crate::{Error, ErrorKind, Result};
use clap::parser::ValueSource;
use clap::{FromArgMatches, Parser};
use std::io::Write;

/// For parsing the arguments that `-o` contains.
#[derive(Debug, Parser)]
struct Again {
    #[command(flatten)]
    mount: MountArgs,
}

/// The arguments, with those from `-o` added, and the options of the mount itself.
fn resolve(mut args: MountArgs) -> Result<(MountArgs, MountOptions)> {
    let mut options = MountOptions::default();
    let mut long = Vec::new();
    for text in std::mem::take(&mut args.options) {
        let list = OptionList::parse(&text)?;
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
            .map_err(|e| Error::with_source(ErrorKind::Usage, "cannot use the options in -o", e))?;
        // Arguments that `-o` does not mention keep their values; a default would replace them.
        let ids: Vec<String> = matches.ids().map(ToString::to_string).collect();
        for id in ids {
            if matches.value_source(&id) == Some(ValueSource::DefaultValue) {
                let _ = matches.try_clear_id(&id); // cannot fail: the id is known
            }
        }
        args.update_from_arg_matches_mut(&mut matches)
            .map_err(|e| Error::with_source(ErrorKind::Usage, "cannot use the options in -o", e))?;
    }
    options.read_only |= args.overlay.read_only;
    if options.read_only && (args.overlay.overlay.is_some() || args.overlay.overlay_dir.is_some()) {
        return Err(Error::new(
            ErrorKind::Usage,
            "a read-only mount needs no overlay; drop --read-only, or --overlay and --overlay-dir",
        ));
    }
    if let Some(option) = args.identity.given().filter(|_| options.read_only) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{option} needs a writable overlay; drop --read-only"),
        ));
    }
    Ok((args, options))
}

/// Mount, and return once the disks can be used (or the mount has ended, with `--foreground`).
pub(super) fn run(args: MountArgs) -> Result<()> {
    let (args, options) = resolve(args)?;
    let mut images = args.paths;
    // clap requires at least one path.
    let mountpoint = images.pop().unwrap_or_default();
    let mut source = args.source.into_options(images)?;
    source.identity = args.identity.read()?;
    let overlay_limit = args.overlay.overlay_limit;
    let overlay = args.overlay.choice(options.read_only);
    let request = MountRequest {
        // A guest with a new identity must not boot with its old one.
        must_adapt: !source.identity.is_empty(),
        source,
        overlay,
        overlay_limit,
        export: ExportRequest::Mount(options),
        sandbox: args.sandbox,
        log: args.log,
        background: if args.foreground { Background::Stay } else { Background::Detach },
    };
    let domain = request.source.config.as_deref().map(DomainConfig::load).transpose()?;
    // `shown` is the mount point as the user typed it.
    let (shown, verbose) = (mountpoint.clone(), args.verbose);
    let print = |report: &MountReport| {
        let try_it = try_it::qemu_line(report, domain.as_ref());
        let text = format!("{}try it:  {try_it}", report.text(verbose));
        // A closed output is no reason to give up a working mount.
        let _ = writeln!(std::io::stderr(), "{}", printable(&text));
        let _ = writeln!(std::io::stdout(), "{}", shown.join("disk.raw").display());
    };
    match request.background {
        Background::Stay => serve::mount(&request, &mountpoint, |report| {
            print(report);
            Ok(())
        }),
        Background::Detach => background::start(&request, &mountpoint).map(|report| print(&report)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(words: &[&str]) -> Result<(MountArgs, MountOptions)> {
        super::resolve(Again::parse_from(std::iter::once(&"mount").chain(words)).mount)
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
