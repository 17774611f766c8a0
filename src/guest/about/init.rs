//! Detects which program runs as process 1 in a guest.

use crate::fs::GuestFs;
use serde::Serialize;
use std::fmt;

/// An init system.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// systemd.
    Systemd,
    /// sysvinit with `/etc/inittab`.
    Sysvinit,
    /// Ubuntu's and RHEL 6's upstart.
    Upstart,
    /// OpenRC, whatever runs as process 1.
    Openrc,
    /// runit.
    Runit,
    /// busybox's init.
    Busybox,
    /// Something else.
    Other,
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Systemd => "systemd",
            Self::Sysvinit => "sysvinit",
            Self::Upstart => "upstart",
            Self::Openrc => "OpenRC",
            Self::Runit => "runit",
            Self::Busybox => "busybox",
            Self::Other => "unknown",
        })
    }
}

/// The init system that `/sbin/init` starts; `None` if there is no such program.
pub fn init(root: &dyn GuestFs) -> Option<Init> {
    let there = |path: &str| root.stat(path).is_ok();
    let program = ["/sbin/init", "/usr/sbin/init", "/etc/init", "/bin/init"]
        .iter()
        .find_map(|path| root.canonicalize(path).ok())?;
    let name = program.rsplit('/').next().unwrap_or_default();
    Some(match name {
        "systemd" => Init::Systemd,
        "runit-init" | "runit" => Init::Runit,
        "openrc-init" => Init::Openrc,
        // Upstart's program is also called `init`, but its jobs are in their own directory.
        _ if there("/etc/init/rcS.conf") || there("/etc/init/rc-sysinit.conf") => Init::Upstart,
        _ if there("/etc/event.d/rcS") || there("/etc/event.d/rc2") => Init::Upstart,
        // OpenRC usually has no process 1 of its own.
        _ if there("/sbin/openrc") && there("/etc/runlevels") => Init::Openrc,
        "busybox" => Init::Busybox,
        _ if there("/etc/inittab") => Init::Sysvinit,
        _ => Init::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    #[test]
    fn who_is_process_1() {
        let fs = || MemFs::new().file("/sbin/init", "");
        let linked = |target: &str| MemFs::new().file(target, "").symlink("/sbin/init", target);
        assert_eq!(init(&linked("/lib/systemd/systemd")), Some(Init::Systemd));
        assert_eq!(init(&fs().file("/etc/inittab", "")), Some(Init::Sysvinit));
        assert_eq!(init(&fs().file("/etc/init/rc-sysinit.conf", "")), Some(Init::Upstart));
        let alpine = linked("/bin/busybox").file("/etc/inittab", "").file("/sbin/openrc", "");
        assert_eq!(init(&alpine.file("/etc/runlevels/default/x", "")), Some(Init::Openrc));
        assert_eq!(init(&linked("/bin/busybox")), Some(Init::Busybox));
        assert_eq!(init(&fs()), Some(Init::Other));
        assert_eq!(init(&MemFs::new()), None);
    }
}
