//! Being called by mount(8): `mount -t fuse.synthdisk IMAGE DIR -o …` and fstab.
//!
//! mount(8) calls `mount.fuse.synthdisk SPEC DIR [-sfnv] [-N ns] [-o OPTIONS] [-t TYPE]`; without
//! such a file, mount.fuse3 calls `synthdisk SPEC DIR -o OPTIONS`. Both become `synthdisk mount`,
//! with the options that are not the mount's own turned into long options.

use crate::fuse::MountOptions;
use crate::{Error, ErrorKind, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// `-o name=value` that stands for `--name value`, written with `_` or `-`.
const VALUED: [&str; 25] = [
    "hostname",
    "root-uuid",
    "machine-id",
    "ssh-key",
    "root-password-hash",
    "copy-in",
    "run-first",
    "cloud-init",
    "adapt",
    "config",
    "overlay",
    "overlay-dir",
    "table",
    "swap",
    "align",
    "root-size",
    "bootloader",
    "disk-id",
    "swap-uuid",
    "kernel",
    "initrd",
    "entry",
    "append",
    "cmdline",
    "log",
];

/// `-o name` that stands for `--name`.
const FLAGS: [&str; 2] = ["force", "guest-kernel"];

/// If the process was called as a mount helper: the arguments that mean the same to us.
///
/// # Errors
/// [`ErrorKind::Usage`] for an option that is not known.
pub(super) fn translate(args: &[OsString]) -> Result<Option<Vec<OsString>>> {
    let name = args.first().map(|a| Path::new(a).file_name().unwrap_or(a).to_owned());
    let by_name = name.is_some_and(|n| n.as_bytes().starts_with(b"mount."));
    let starts_plain = |a: &OsString| !a.as_bytes().starts_with(b"-");
    let bare = args.len() >= 4
        && args[1..3].iter().all(starts_plain)
        && !super::is_subcommand(&args[1])
        && args[3] == "-o";
    if !by_name && !bare {
        return Ok(None);
    }
    let mut out: Vec<OsString> = vec!["synthdisk".into(), "mount".into()];
    let mut positional = Vec::new();
    let mut rest = args[1..].iter();
    while let Some(arg) = rest.next() {
        match arg.as_bytes() {
            b"-o" => {
                let options = rest.next().map(OsString::as_os_str).unwrap_or_default();
                add_options(options, &mut out)?;
            }
            // A namespace or a type: mount(8) has seen to it.
            b"-N" | b"-t" => drop(rest.next()),
            flags if flags.starts_with(b"-") => {
                if flags.contains(&b'v') {
                    out.push("--verbose".into());
                }
                if flags.contains(&b'f') {
                    // "Fake": check the arguments, mount nothing.
                    std::process::exit(0);
                }
            }
            _ => positional.push(arg.clone()),
        }
    }
    // With a config there is no image; what stands in its place in fstab is for people.
    if out.iter().any(|word| word == "--config") && positional.len() > 1 {
        positional.remove(0);
    }
    out.push("--".into());
    out.extend(positional);
    Ok(Some(out))
}

/// Turn the options of one `-o` into arguments.
pub(super) fn add_options(options: &OsStr, out: &mut Vec<OsString>) -> Result<()> {
    let mut own: Vec<u8> = Vec::new();
    for option in split(options.as_bytes()) {
        let text = String::from_utf8_lossy(&option);
        if MountOptions::default().take(&text)? {
            if !own.is_empty() {
                own.push(b',');
            }
            own.extend(&option);
            continue;
        }
        let at = option.iter().position(|b| *b == b'=');
        let (name, value) = option.split_at(at.unwrap_or(option.len()));
        let name = String::from_utf8_lossy(name).replace('_', "-");
        if VALUED.contains(&name.as_str()) && !value.is_empty() {
            out.push(format!("--{name}").into());
            out.push(OsString::from_vec(value[1..].to_vec()));
        } else if FLAGS.contains(&name.as_str()) && value.is_empty() {
            out.push(format!("--{name}").into());
        } else {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("unknown mount option `{text}`; see `synthdisk mount --help`"),
            ));
        }
    }
    if !own.is_empty() {
        out.push("-o".into());
        out.push(OsString::from_vec(own));
    }
    Ok(())
}

/// Split at commas; a backslash takes the next byte as it is.
fn split(options: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = options.iter();
    while let Some(byte) = bytes.next() {
        let last = parts.len() - 1;
        match byte {
            b',' => parts.push(Vec::new()),
            b'\\' => parts[last].extend(bytes.next()),
            _ => parts[last].push(*byte),
        }
    }
    parts.retain(|p| !p.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(args: &[&str]) -> Option<Vec<String>> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let out = translate(&args).unwrap()?;
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
        assert!(translate(&unknown.map(OsString::from)).is_err());
    }
}
