//! Support for mount(8): `mount -t fuse.synthdisk IMAGE DIR -o …` and fstab.
//!
//! mount(8) calls `mount.fuse.synthdisk SPEC DIR [-sfnv] [-N ns] [-o OPTIONS] [-t TYPE]`; without
//! such a file, mount.fuse3 calls `synthdisk SPEC DIR -o OPTIONS`. Both are translated to
//! `synthdisk mount`.

use super::mount::OptionList;
use crate::Result;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The equivalent arguments, if the process was called as a mount helper. `is_command` knows the
/// names of the subcommands.
///
/// # Errors
/// Those of [`OptionList::parse`].
pub(super) fn translate(
    args: &[OsString],
    is_command: impl Fn(&OsStr) -> bool,
) -> Result<Option<Vec<OsString>>> {
    let name = args.first().map(|a| Path::new(a).file_name().unwrap_or(a).to_owned());
    let by_name = name.is_some_and(|n| n.as_bytes().starts_with(b"mount."));
    let starts_plain = |a: &OsString| !a.as_bytes().starts_with(b"-");
    let bare = args.len() >= 4
        && args[1..3].iter().all(starts_plain)
        && !is_command(&args[1])
        && args[3] == "-o";
    if !by_name && !bare {
        return Ok(None);
    }
    let mut words: Vec<OsString> = vec!["synthdisk".into(), "mount".into()];
    let mut positional = Vec::new();
    let mut own = Vec::new();
    let mut rest = args[1..].iter();
    while let Some(arg) = rest.next() {
        match arg.as_bytes() {
            b"-o" => {
                let list =
                    OptionList::parse(rest.next().map(OsString::as_os_str).unwrap_or_default())?;
                words.extend(list.long);
                own.extend(list.own);
            }
            // A namespace or a type, which mount(8) has handled already.
            b"-N" | b"-t" => drop(rest.next()),
            flags if flags.starts_with(b"-") => {
                if flags.contains(&b'v') {
                    words.push("--verbose".into());
                }
                if flags.contains(&b'f') {
                    // "Fake": check the arguments, mount nothing.
                    std::process::exit(0);
                }
            }
            _ => positional.push(arg.clone()),
        }
    }
    // With a config there is no image; the first field in fstab is then only for people to read.
    if words.iter().any(|word| word == "--config") && positional.len() > 1 {
        positional.remove(0);
    }
    if !own.is_empty() {
        words.extend(["-o".into(), own.join(",").into()]);
    }
    words.push("--".into());
    words.extend(positional);
    Ok(Some(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(args: &[&str]) -> Option<Vec<String>> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let out = translate(&args, |word| word == "mount").unwrap()?;
        Some(out.into_iter().map(|a| a.into_string().unwrap()).collect())
    }

    #[test]
    fn as_mount_calls_us() {
        let expected = ["synthdisk", "mount", "--overlay", "/x,y", "--swap", "1G", "-o"];
        let got = call(&[
            "/sbin/mount.fuse.synthdisk",
            "/img",
            "/mnt",
            "-n",
            "-o",
            "rw,allow_other,overlay=/x\\,y,swap=1G,noauto",
        ])
        .unwrap();
        assert_eq!(got[..7], expected);
        assert_eq!(got[7..], ["rw,allow_other,noauto", "--", "/img", "/mnt"]);
        let bare = call(&["synthdisk", "/img", "/mnt", "-o", "rw,root_size=3G"]).unwrap();
        assert_eq!(bare[2..4], ["--root-size", "3G"]);
        let config =
            ["mount.fuse.synthdisk", "web1", "/mnt", "-o", "config=/x.cfg,guest_kernel,ro"];
        let config = call(&config).unwrap();
        assert_eq!(config[2..5], ["--config", "/x.cfg", "--guest-kernel"]);
        assert_eq!(config[5..], ["-o", "ro", "--", "/mnt"]);
    }

    #[test]
    fn our_own_commands_stay() {
        assert_eq!(call(&["synthdisk", "mount", "a", "-o", "ro", "b"]), None);
        assert_eq!(call(&["synthdisk", "--help"]), None);
        assert_eq!(call(&["synthdisk"]), None);
        let unknown = ["mount.fuse.synthdisk", "a", "b", "-o", "bogus"];
        assert!(translate(&unknown.map(OsString::from), |_| false).is_err());
    }
}
