//! Identifiers and secrets that no two machines may share.
//!
//! machine-id(5): with an empty `/etc/machine-id`, systemd chooses a new one at boot and keeps it;
//! only a file that says `uninitialized` (or a missing file) makes that a "first boot", which
//! applies presets and may ask questions. A clone of a finished guest must not do that. The
//! identifiers that systemd-networkd and NetworkManager send to DHCP servers derive from the
//! machine-id; leases, keys and seeds have files of their own. What differs from the image already
//! belongs to the clone, and stays.

use super::first_boot::{enable_in, start_with, write};
use super::init::Init;
use crate::edit::Draft;
use crate::edit::MAX_FILE;
use crate::fs::{FileKind, GuestFs};
use crate::{ErrorKind, Result};

const ETC: &str = "/etc/machine-id";
const DBUS: &str = "/var/lib/dbus/machine-id";

/// Seeds of the random number generator, which the guest regenerates: systemd, sysvinit, Red Hat.
const SEEDS: [&str; 4] = [
    "/var/lib/systemd/random-seed",
    "/var/lib/urandom/random-seed",
    "/var/lib/random-seed",
    "/var/lib/misc/random-seed",
];

/// Directories of DHCP clients, and prefixes or suffixes of the machine's own files there.
const LEASES: [(&str, &[&str]); 8] = [
    ("/var/lib/dhcp", &["lease", "leases"]),
    ("/var/lib/dhcp3", &["lease", "leases"]),
    ("/var/lib/dhclient", &["lease", "leases"]),
    ("/var/lib/dhcpcd", &["lease", "lease6", "duid", "secret"]),
    ("/var/lib/dhcpcd5", &["lease", "lease6", "duid", "secret"]),
    ("/var/lib/NetworkManager", &["lease", "secret_key"]),
    ("/var/lib/wicked", &["xml"]),
    ("/etc", &["dhcpcd.duid"]),
];

const SSH: &str = "/etc/ssh";

pub(super) fn draft(draft: &mut Draft, pristine: Option<&dyn GuestFs>) {
    let images = |path: &str, draft: &Draft| is_the_images(draft.root(), pristine, path);
    let init = Init::of(draft);
    if draft.text(ETC).is_some_and(|id| !id.trim().is_empty()) && images(ETC, draft) {
        if init == Some(Init::Systemd) {
            draft.rewrite(ETC, "", "made empty; the next boot finds a new one");
        } else {
            draft.remove(ETC, "the next boot finds a new one");
        }
    }
    let mut gone = vec![(DBUS.to_owned(), "the next boot finds a new one")];
    gone.extend(SEEDS.map(|path| (path.to_owned(), "a seed of its own comes with the next boot")));
    for (dir, ends) in LEASES {
        let own = |name: &String| {
            ends.iter()
                .any(|end| name.strip_suffix(end).is_some_and(|r| r.is_empty() || r.ends_with('.')))
        };
        let names = draft.names(dir).into_iter().filter(own);
        gone.extend(names.map(|name| (format!("{dir}/{name}"), "what DHCP gave to another")));
    }
    for (path, why) in gone {
        // A link to /etc/machine-id follows that file.
        let is_file = draft.root().lstat(&path).is_ok_and(|s| s.kind == FileKind::File);
        if is_file && images(&path, draft) {
            draft.remove(&path, why);
        }
    }
    let is_key = |name: &String| name.starts_with("ssh_host_") && name.contains("_key");
    let keys = draft.names(SSH).into_iter().filter(is_key);
    let keys: Vec<String> = keys
        .map(|name| format!("{SSH}/{name}"))
        .filter(|path| is_the_images(draft.root(), pristine, path))
        .collect();
    if !keys.is_empty() && keys_come_back(draft, init) {
        keys.iter().for_each(|path| draft.remove(path, "the next boot makes a new one"));
    }
}

/// Whether the file at `path` is the same as in the image.
fn is_the_images(root: &dyn GuestFs, pristine: Option<&dyn GuestFs>, path: &str) -> bool {
    let Some(pristine) = pristine else { return true };
    match (root.read(path, MAX_FILE), pristine.read(path, MAX_FILE)) {
        (Ok(here), Ok(there)) => here == there,
        // Files too large to read are compared by their metadata.
        (Err(a), Err(b)) if [a.kind(), b.kind()] == [ErrorKind::TooLarge; 2] => {
            let about = |fs: &dyn GuestFs| -> Result<_> { fs.stat(path) };
            about(root).ok().is_some_and(|here| about(pristine).is_ok_and(|there| here == there))
        }
        _ => false,
    }
}

const MAKER: &str = "/etc/synthdisk/ssh-host-keys";

const MAKER_TEXT: &str = r#"#!/bin/sh
# Makes the SSH host keys of a clone, which those of its image are not. Written by synthdisk.
PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ssh-keygen -A && exit
# OpenSSH before 5.9
for kind in rsa dsa; do
    key=/etc/ssh/ssh_host_${kind}_key
    [ -s "$key" ] || ssh-keygen -q -N '' -t $kind -f "$key"
done
"#;

const UNIT: &str = "\
[Unit]
Description=Make SSH host keys (synthdisk)
Before=ssh.service sshd.service
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key

[Service]
Type=oneshot
ExecStart=/bin/sh /etc/synthdisk/ssh-host-keys

[Install]
WantedBy=multi-user.target
";

const SYSV: &str = r"#!/bin/sh
### BEGIN INIT INFO
# Provides:          synthdisk-ssh-host-keys
# Required-Start:    $local_fs
# Required-Stop:
# Default-Start:     S
# Default-Stop:
# Short-Description: Make SSH host keys (synthdisk)
### END INIT INFO
case $1 in
start)
    for key in /etc/ssh/ssh_host_*_key; do
        [ -e $key ] || /bin/sh /etc/synthdisk/ssh-host-keys
        break
    done
    ;;
esac
";

/// Make sure that the guest creates host keys when it has none. Most distributions do that at boot;
/// Debian creates them when the package is installed and never again. False when nothing can be
/// done.
fn keys_come_back(draft: &mut Draft, init: Option<Init>) -> bool {
    let why = "makes SSH host keys";
    match init {
        None => return false,
        // OpenRC's sshd script does so.
        Some(Init::OpenRc) => return true,
        Some(Init::Systemd) => {
            let dirs = ["/usr/lib/systemd/system", "/lib/systemd/system"];
            let own =
                |name: &String| name.starts_with("sshd-keygen") || name == "sshdgenkeys.service";
            if dirs.iter().any(|dir| draft.names(dir).iter().any(own)) {
                return true;
            }
            start_with(draft, Init::Systemd, "synthdisk-ssh-host-keys", [UNIT, SYSV, ""], why);
        }
        Some(Init::SysV) => {
            let own = draft.text("/etc/init.d/sshd").unwrap_or_default();
            if own.contains("ssh-keygen") || own.contains("KEYGEN") {
                return true;
            }
            let (name, script) = ("synthdisk-ssh-host-keys", "/etc/init.d/synthdisk-ssh-host-keys");
            write(draft, script, SYSV, 0o755, why);
            enable_in(draft, "S", script, name, why);
        }
    }
    write(draft, MAKER, MAKER_TEXT, 0o755, why);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;
    use crate::identity::testing::{applied, drafted};

    fn run(fs: &MemFs, pristine: Option<&dyn GuestFs>) -> Vec<(String, String)> {
        drafted(fs, |d| {
            draft(d, pristine);
            Ok(())
        })
        .unwrap()
    }

    fn golden() -> MemFs {
        MemFs::new()
            .file("/lib/systemd/systemd", "")
            .symlink("/sbin/init", "/lib/systemd/systemd")
            .file(ETC, "0123456789abcdef0123456789abcdef\n")
            .symlink(DBUS, "/etc/machine-id")
            .file("/var/lib/dhcp/dhclient.eth0.leases", "lease {}\n")
            .file("/var/lib/dhcp/README", "")
            .file("/etc/ssh/sshd_config", "")
    }

    #[test]
    fn only_what_is_the_images() {
        let fs = golden();
        let edits = run(&fs, Some(&golden()));
        let expected = [(ETC, ""), ("/var/lib/dhcp/dhclient.eth0.leases", "")];
        assert_eq!(edits, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(run(&fs, None), edits);
        // After its first boot the clone has its own.
        let own = golden()
            .file(ETC, "fedcba9876543210fedcba9876543210\n")
            .file("/var/lib/dhcp/dhclient.eth0.leases", "lease {1}\n")
            .file("/var/lib/systemd/random-seed", "x");
        assert_eq!(run(&own, Some(&golden())), []);
        let waiting = golden().file(ETC, "").file("/var/lib/dhcp/dhclient.eth0.leases", "");
        assert_eq!(run(&waiting, Some(&golden())), []);
    }

    #[test]
    fn without_systemd() {
        let fs = MemFs::new()
            .file("/sbin/init", "")
            .file("/etc/rc3.d/README", "")
            .file(ETC, "0123\n")
            .file(DBUS, "0123\n")
            .file("/var/lib/urandom/random-seed", vec![1; 9]);
        let paths: Vec<String> = run(&fs, None).into_iter().map(|e| e.0).collect();
        assert_eq!(paths, [ETC, DBUS, "/var/lib/urandom/random-seed"]);
    }

    #[test]
    fn host_keys_are_made_again() {
        let key = "/etc/ssh/ssh_host_rsa_key";
        let public = format!("{key}.pub");
        let with_keys = |fs: MemFs| fs.file(key, "1").file(&public, "2");
        let last_two = |edits: &[(String, String)]| {
            edits[edits.len() - 2..].iter().map(|e| e.0.clone()).collect::<Vec<_>>()
        };
        let debian = with_keys(golden());
        let edits = run(&debian, None);
        assert_eq!(last_two(&edits), [key, &public]);
        let all: Vec<&str> = edits.iter().map(|e| e.0.as_str()).collect();
        let unit = "/etc/systemd/system/synthdisk-ssh-host-keys.service";
        assert!(all.contains(&unit) && all.contains(&MAKER), "{all:?}");
        // Keys that were created anew stay.
        let own = applied(debian, &edits).file(key, "3").file(&public, "4");
        let own = own.file(ETC, "1\n").file("/var/lib/dhcp/dhclient.eth0.leases", "1\n");
        assert_eq!(run(&own, Some(&with_keys(golden()))), []);
        let red_hat = with_keys(golden()).file("/usr/lib/systemd/system/sshd-keygen.target", "");
        let edits = run(&red_hat, None);
        assert!(edits.iter().all(|e| !e.0.contains("synthdisk")));
        assert_eq!(last_two(&edits), [key, &public]);
    }
}
