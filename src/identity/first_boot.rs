//! Scripts that the guest runs once, at its next boot.
//!
//! A script waits in `pending/` and is moved to `ran/` before it is started: whatever it does, and
//! however the machine stops in the meantime, it is not started twice. Its name contains a digest
//! of its contents, so that the next mount recognises the same script.

use super::init::{Init, run_level};
use crate::edit::{Draft, FileAccess, FileContent};
use crate::{Error, ErrorKind, Result};
use uuid::Uuid;

/// A script of this host.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Script {
    /// Its file's name.
    name: String,
    /// Its contents.
    bytes: Vec<u8>,
}

impl Script {
    /// The script `bytes`, read from the file `name`; messages call it `shown`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for something that no kernel would run.
    pub fn new(name: &str, shown: &str, bytes: Vec<u8>) -> Result<Self> {
        if !bytes.starts_with(b"#!") && !bytes.starts_with(b"\x7fELF") {
            let what = format!(
                "{shown} does not begin with #!, so the guest would not know what runs it; a script \
                 for sh begins with the line #!/bin/sh"
            );
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let name: String = name.chars().take(60).map(plain).collect();
        Ok(Self { name, bytes })
    }

    /// Its file's name, with nothing that a shell would interpret.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name and a digest of its contents.
    pub fn unique_name(&self) -> String {
        format!("{}-{}", self.name, self.digest())
    }

    /// The same script under another name.
    #[must_use]
    pub fn renamed(self, name: String) -> Self {
        Self { name, ..self }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Identifies the script by its contents, whatever its name.
    fn digest(&self) -> String {
        let digest = Uuid::new_v5(&Uuid::NAMESPACE_OID, &self.bytes).simple().to_string();
        digest[..12].to_owned()
    }
}

/// On every guest's root filesystem and never mounted `noexec`, unlike directories below /var or
/// /usr.
const HOME: &str = "/etc/synthdisk/first-boot";

const RUNNER: &str = r#"#!/bin/sh
# Runs each script in pending/ once, in the order of their names. Written by synthdisk.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
home=/etc/synthdisk/first-boot
mkdir -p "$home/ran"
worst=0
for script in "$home"/pending/*; do
    [ -f "$script" ] || continue
    name=${script##*/}
    # Before it starts: nothing that it does can make it start again.
    mv "$script" "$home/ran/$name" || exit 1
    sync
    echo "synthdisk: $name starts"
    "$home/ran/$name" </dev/null
    code=$?
    echo "$code" >"$home/ran/$name.exit-code"
    echo "synthdisk: $name ended with exit code $code"
    [ "$code" = 0 ] || worst=1
done
exit $worst
"#;

const UNIT: &str = "\
[Unit]
Description=Run first-boot scripts (synthdisk)
After=network.target network-online.target
ConditionDirectoryNotEmpty=/etc/synthdisk/first-boot/pending

[Service]
Type=oneshot
ExecStart=/bin/sh /etc/synthdisk/first-boot/run
StandardOutput=journal+console

[Install]
WantedBy=multi-user.target
";

const SYSV: &str = r"#!/bin/sh
### BEGIN INIT INFO
# Provides:          synthdisk-first-boot
# Required-Start:    $all
# Required-Stop:
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: Run first-boot scripts (synthdisk)
### END INIT INFO
# chkconfig: 2345 99 01
# description: Run first-boot scripts (synthdisk)
case $1 in
start) /bin/sh /etc/synthdisk/first-boot/run >>/etc/synthdisk/first-boot/log 2>&1 ;;
esac
";

const OPENRC: &str = r#"#!/sbin/openrc-run
description="Run first-boot scripts (synthdisk)"

depend() {
    after *
}

start() {
    ebegin "Running first-boot scripts"
    /bin/sh /etc/synthdisk/first-boot/run >>/etc/synthdisk/first-boot/log 2>&1
    eend $?
}
"#;

pub(super) fn draft(draft: &mut Draft, scripts: &[Script]) -> Result<()> {
    let seen: Vec<String> =
        ["pending", "ran"].iter().flat_map(|dir| draft.names(&format!("{HOME}/{dir}"))).collect();
    let mut new: Vec<&Script> = Vec::new();
    for script in scripts {
        let suffix = format!("-{}", script.digest());
        let known = seen.iter().any(|name| name.ends_with(&suffix));
        if !known && !new.contains(&script) {
            new.push(script);
        }
    }
    if new.is_empty() {
        return Ok(());
    }
    let Some(init) = Init::of(draft) else {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "--run-first: the guest's init is neither systemd, sysvinit, upstart nor OpenRC, so \
             nothing can be told to run the script",
        ));
    };
    let why = "runs scripts at the first boot";
    start_with(draft, init, "synthdisk-first-boot", [UNIT, SYSV, OPENRC], why);
    write(draft, &format!("{HOME}/run"), RUNNER, 0o755, why);
    for (i, script) in new.iter().enumerate() {
        // Numbers continue where an earlier mount left off, so that the order is kept.
        let number = seen.iter().filter(|n| !n.ends_with(".exit-code")).count() + i + 1;
        let path = format!("{HOME}/pending/{number:03}-{}-{}", script.name, script.digest());
        let content = FileContent::Bytes(script.bytes.clone());
        let why = format!("{} runs at the first boot", script.name);
        draft.create(&path, content, FileAccess::root(0o755), why);
    }
    Ok(())
}

/// Make `init` start the service `name`, given as a systemd unit, as a sysvinit script and as an
/// OpenRC script.
pub(super) fn start_with(
    draft: &mut Draft,
    init: Init,
    name: &str,
    [unit, sysv, openrc]: [&str; 3],
    why: &str,
) {
    let script = format!("/etc/init.d/{name}");
    match init {
        Init::Systemd => {
            let dir = "/etc/systemd/system";
            let path = format!("{dir}/{name}.service");
            write(draft, &path, unit, 0o644, why);
            let wants = format!("{dir}/multi-user.target.wants/{name}.service");
            link(draft, &wants, &path, why);
        }
        Init::SysV => {
            write(draft, &script, sysv, 0o755, why);
            for level in ["2", "3", "4", "5"] {
                enable_in(draft, level, &script, name, why);
            }
        }
        Init::OpenRc => {
            write(draft, &script, openrc, 0o755, why);
            link(draft, &format!("/etc/runlevels/default/{name}"), &script, why);
        }
    }
}

/// A link to `script` in a sysvinit run level; it is the last one that is started there.
pub(super) fn enable_in(draft: &mut Draft, level: &str, script: &str, name: &str, why: &str) {
    let dir = run_level(draft, level);
    if !dir.is_empty() {
        link(draft, &format!("{dir}/S99{name}"), script, why);
    }
    // Debian starts what this file lists, and regenerates it from the headers of all scripts when a
    // package installs one. See insserv(8).
    let order = if level == "S" { "boot" } else { "start" };
    draft.edit(&format!("/etc/init.d/.depend.{order}"), |text| {
        Some((ordered(text, name)?, why.to_owned()))
    });
}

/// Rules of make(1) as insserv writes them, with `name` after all others; `None` when it is listed
/// already.
fn ordered(text: &str, name: &str) -> Option<String> {
    let targets = text.lines().find_map(|line| line.strip_prefix("TARGETS ="))?;
    if targets.split_ascii_whitespace().any(|target| target == name) {
        return None;
    }
    let with_name = format!("TARGETS ={targets} {name}");
    let mut out = text.replacen(&format!("TARGETS ={targets}"), &with_name, 1);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out.push_str(&format!("{name}:{targets}\n"));
    Some(out)
}

/// A file with these contents, unless it has them already.
pub(super) fn write(draft: &mut Draft, path: &str, text: &str, mode: u32, why: &str) {
    if draft.text(path).as_deref() != Some(text) {
        let content = FileContent::Bytes(text.as_bytes().to_vec());
        draft.create(path, content, FileAccess::root(mode), why);
    }
}

fn link(draft: &mut Draft, path: &str, target: &str, why: &str) {
    if !draft.is_there(path) {
        draft.symlink(path, target, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;
    use crate::identity::testing::{applied, drafted};

    fn script(name: &str, text: &str) -> Script {
        Script::new(name, name, text.into()).unwrap()
    }

    fn systemd() -> MemFs {
        MemFs::new().file("/lib/systemd/systemd", "").symlink("/sbin/init", "/lib/systemd/systemd")
    }

    fn files(fs: &MemFs, scripts: &[Script]) -> Vec<String> {
        let edits = drafted(fs, |d| draft(d, scripts)).unwrap();
        edits.into_iter().filter(|e| e.1 != "/").map(|e| e.0).collect()
    }

    #[test]
    fn what_can_be_run() {
        assert!(Script::new("x", "x", b"echo".to_vec()).is_err());
        assert!(Script::new("x", "x", Vec::new()).is_err());
        assert_eq!(script("a b/\u{fc}", "#!/bin/sh").name, "a_b__");
    }

    #[test]
    fn once_whatever_it_is_called() {
        let one = script("setup.sh", "#!/bin/sh\necho 1\n");
        let name = format!("{HOME}/pending/001-setup.sh-{}", one.digest());
        let edits = drafted(&systemd(), |d| draft(d, &[one.clone(), one.clone()])).unwrap();
        let paths: Vec<&str> = edits.iter().filter(|e| e.1 != "/").map(|e| e.0.as_str()).collect();
        let unit = "synthdisk-first-boot.service";
        let dir = "/etc/systemd/system";
        let (file, wants) =
            (format!("{dir}/{unit}"), format!("{dir}/multi-user.target.wants/{unit}"));
        assert_eq!(paths, [&file, &wants, &format!("{HOME}/run"), &name]);
        let waiting = applied(systemd(), &edits);
        assert!(files(&waiting, &[script("other", "#!/bin/sh\necho 1\n")]).is_empty());
        let two = script("b", "#!/bin/sh\necho 2\n");
        let second = format!("{HOME}/pending/002-b-{}", two.digest());
        assert_eq!(files(&waiting, &[one.clone(), two]), [second]);
        let ran = name.replace("pending", "ran");
        let ran = systemd().file(&ran, "").file(&format!("{ran}.exit-code"), "0\n");
        assert!(files(&ran, &[one]).is_empty());
    }

    #[test]
    fn behind_all_others() {
        let text = "TARGETS = rsyslog ssh\nINTERACTIVE =\nssh: rsyslog\n";
        let new = "TARGETS = rsyslog ssh x\nINTERACTIVE =\nssh: rsyslog\nx: rsyslog ssh\n";
        assert_eq!(ordered(text, "x").as_deref(), Some(new));
        assert_eq!(ordered(new, "x"), None);
        assert_eq!(ordered("", "x"), None);
    }

    #[test]
    fn every_init() {
        let scripts = [script("x", "#!/bin/sh\n")];
        let sysv = MemFs::new()
            .file("/sbin/init", "")
            .file("/etc/rc.d/rc3.d/README", "")
            .file("/etc/rc.d/init.d/x", "")
            .symlink("/etc/init.d", "rc.d/init.d")
            .symlink("/etc/rc3.d", "rc.d/rc3.d");
        let all = files(&sysv, &scripts);
        for path in
            ["/etc/rc.d/init.d/synthdisk-first-boot", "/etc/rc.d/rc3.d/S99synthdisk-first-boot"]
        {
            assert!(all.iter().any(|p| p == path), "{all:?}");
        }
        let openrc = MemFs::new()
            .file("/sbin/openrc-run", "")
            .symlink("/etc/runlevels/default/sshd", "/etc/init.d/sshd");
        let all = files(&openrc, &scripts);
        assert!(all.iter().any(|p| p == "/etc/runlevels/default/synthdisk-first-boot"), "{all:?}");
        let e = drafted(&MemFs::new(), |d| draft(d, &scripts)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
    }
}
