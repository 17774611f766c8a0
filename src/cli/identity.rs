//! Options that give a clone its own identity, for the commands that edit a guest in an overlay.

use crate::identity::{CopyIn, Hostname, Identity, PasswordHash, RootUuid, Script, SshKeys};
use crate::{Error, ErrorKind, Result};
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn hostname(text: &str) -> std::result::Result<Hostname, String> {
    Hostname::parse(text).map_err(|e| e.to_string())
}

fn root_uuid(text: &str) -> std::result::Result<RootUuid, String> {
    RootUuid::parse(text).map_err(|e| e.to_string())
}

fn copy_in(text: &str) -> std::result::Result<CopyIn, String> {
    CopyIn::parse(text).map_err(|e| e.to_string())
}

/// What to do with the machine-id.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum MachineId {
    /// Removed; the guest makes a new one when it boots
    Reset,
}

/// Options that give a clone of a golden image its own identity; see docs/clones.md.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Guest edits")]
pub(super) struct IdentityArgs {
    /// Set the guest's hostname
    #[arg(long, value_name = "NAME", value_parser = hostname)]
    pub(super) hostname: Option<Hostname>,

    /// Set the UUID of the root filesystem; "new" makes a random one, once per overlay
    #[arg(long, value_name = "new|UUID", value_parser = root_uuid)]
    root_uuid: Option<RootUuid>,

    /// Remove machine-id, SSH host keys, DHCP leases and random seeds; the guest makes new ones
    #[arg(long, value_enum)]
    machine_id: Option<MachineId>,

    /// Authorize the public keys in FILE for root, or for USER; may be repeated
    #[arg(long, value_name = "[USER:]FILE")]
    ssh_key: Vec<OsString>,

    /// Set root's password to this hash (see `openssl passwd -6`), or to the one in a file, which
    /// hides it from other users' process lists
    #[arg(long, value_name = "HASH|@FILE", allow_hyphen_values = true)]
    root_password_hash: Option<OsString>,

    /// Copy a file or directory into a directory of the guest; may be repeated
    #[arg(long, value_name = "SRC:DEST", value_parser = copy_in)]
    copy_in: Vec<CopyIn>,

    /// Run this script once, when the guest boots; may be repeated, in order
    #[arg(long, value_name = "SCRIPT")]
    run_first: Vec<OsString>,
}

/// Limit for a script or a list of keys, in bytes.
const MAX_FILE: u64 = 4 << 20;

impl IdentityArgs {
    /// The first of these options that was given, for use in messages.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.hostname.is_some(), "--hostname"),
            (self.root_uuid.is_some(), "--root-uuid"),
            (self.machine_id.is_some(), "--machine-id"),
            (!self.ssh_key.is_empty(), "--ssh-key"),
            (self.root_password_hash.is_some(), "--root-password-hash"),
            (!self.copy_in.is_empty(), "--copy-in"),
            (!self.run_first.is_empty(), "--run-first"),
        ];
        given.into_iter().find(|(is, _)| *is).map(|(_, name)| name)
    }

    /// The identity that these arguments describe; reads the files that they name.
    ///
    /// # Errors
    /// Fails if a file cannot be read or its contents are invalid.
    pub(super) fn read(&self) -> Result<Identity> {
        Ok(Identity {
            hostname: self.hostname.clone(),
            root_uuid: self.root_uuid,
            reset_machine_id: self.machine_id == Some(MachineId::Reset),
            ssh_keys: self.ssh_key.iter().map(keys).collect::<Result<_>>()?,
            root_password: self.root_password_hash.as_ref().map(password).transpose()?,
            copies: self.copy_in.clone(),
            first_boot: self.run_first.iter().map(|v| script(v.as_ref())).collect::<Result<_>>()?,
            checks: Vec::new(),
        })
    }
}

/// The contents of a file of at most [`MAX_FILE`] bytes.
fn read(option: &str, path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    let failed = |e| Error::io(format!("{option}: cannot read {shown}"), e);
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        let what = format!("{option}: {shown} is too large (limit {} MiB)", MAX_FILE >> 20);
        return Err(Error::new(ErrorKind::TooLarge, what));
    }
    Ok(bytes)
}

/// `FILE` or `USER:FILE`.
fn keys(value: &OsString) -> Result<SshKeys> {
    let text = value.to_string_lossy();
    let is_user = |name: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        !name.is_empty() && name.len() <= 32 && name.chars().all(plain)
    };
    let (user, path) = match text.split_once(':') {
        Some((user, path)) if is_user(user) && !path.is_empty() => (user, Path::new(path)),
        _ => ("root", Path::new(value)),
    };
    let bytes = read("--ssh-key", path)?;
    let shown = path.display().to_string();
    SshKeys::parse(user, &shown, &String::from_utf8_lossy(&bytes))
}

/// A hash, or `@FILE`; no hash begins with `@`.
fn password(value: &OsString) -> Result<PasswordHash> {
    let text = match value.as_bytes().strip_prefix(b"@") {
        Some(path) => {
            let path = Path::new(std::ffi::OsStr::from_bytes(path));
            let bytes = read("--root-password-hash", path)?;
            String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned()
        }
        None => value.to_string_lossy().into_owned(),
    };
    PasswordHash::parse(&text)
}

fn script(path: &Path) -> Result<Script> {
    read_script("--run-first", path)
}

/// The script that `option` names.
///
/// # Errors
/// Fails if it cannot be read, or if nothing says what runs it.
pub(super) fn read_script(option: &str, path: &Path) -> Result<Script> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Script::new(&name, &path.display().to_string(), read(option, path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        identity: IdentityArgs,
    }

    #[test]
    fn the_first_option_is_named() {
        let given =
            |words: &[&str]| Cli::parse_from(std::iter::once(&"x").chain(words)).identity.given();
        assert_eq!(given(&["--run-first=s1", "--hostname=web2"]), Some("--hostname"));
        assert_eq!(given(&["--root-password-hash=$6$a$b"]), Some("--root-password-hash"));
        assert_eq!(given(&[]), None);
        assert!(IdentityArgs::default().read().unwrap().is_empty());
    }

    #[test]
    fn files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        assert!(script(&file).is_ok());
        assert!(keys(&file.clone().into()).unwrap_err().to_string().contains("no SSH public key"));
        let missing = keys(&"me:/nowhere".into()).unwrap_err().to_string();
        assert!(missing.contains("/nowhere") && !missing.contains("me:"), "{missing}");
        let hash = "$5$salt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/";
        std::fs::write(&file, format!("{hash}\n")).unwrap();
        let mut at = OsString::from("@");
        at.push(&file);
        assert_eq!(password(&at).unwrap(), PasswordHash::parse(hash).unwrap());
        assert_eq!(password(&"secret".into()).unwrap_err().kind(), ErrorKind::Usage);
        let big = File::create(&file).unwrap();
        big.set_len(MAX_FILE + 1).unwrap();
        assert_eq!(script(&file).unwrap_err().kind(), ErrorKind::TooLarge);
    }
}
