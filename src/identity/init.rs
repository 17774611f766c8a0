//! What starts the guest's services.

use crate::edit::Draft;

/// Init systems that can be configured to run something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Init {
    /// systemd.
    Systemd,
    /// OpenRC: Alpine, Gentoo, some Debian.
    OpenRc,
    /// Links in `rcN.d`: sysvinit, and upstart, which runs these too.
    SysV,
}

/// Parent directories of the run levels' links: Debian and Red Hat (where `/etc/rcN.d` are links),
/// SUSE.
const RC_DIRS: [&str; 3] = ["/etc", "/etc/rc.d", "/etc/init.d"];

impl Init {
    /// The guest's init; `None` when it is none of these.
    pub(super) fn of(draft: &Draft) -> Option<Self> {
        let target = draft.root().canonicalize("/sbin/init");
        let is_systemd = match &target {
            Ok(path) => path.ends_with("/systemd"),
            // If /usr is a separate filesystem, the link may be dangling here.
            Err(_) => draft.exists("/etc/systemd/system"),
        };
        if is_systemd {
            return Some(Self::Systemd);
        }
        let openrc = ["/sbin/openrc-run", "/usr/sbin/openrc-run", "/sbin/runscript"];
        if draft.exists("/etc/runlevels/default") && openrc.iter().any(|p| draft.exists(p)) {
            return Some(Self::OpenRc);
        }
        (!run_level(draft, "3").is_empty()).then_some(Self::SysV)
    }
}

/// The directory of a run level's links; empty when it does not exist.
pub(super) fn run_level(draft: &Draft, level: &str) -> String {
    let dirs = RC_DIRS.iter().map(|dir| format!("{dir}/rc{level}.d"));
    dirs.into_iter().find(|dir| draft.exists(dir)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    #[test]
    fn whose_init_it_is() {
        let of = |fs: MemFs| Init::of(&Draft::new(&fs));
        let debian = MemFs::new()
            .file("/usr/lib/systemd/systemd", "")
            .symlink("/lib", "usr/lib")
            .symlink("/sbin/init", "/lib/systemd/systemd")
            .file("/etc/rc3.d/README", "");
        assert_eq!(of(debian), Some(Init::Systemd));
        let old = MemFs::new().file("/sbin/init", "").file("/etc/rc3.d/README", "");
        assert_eq!(of(old), Some(Init::SysV));
        let alpine = MemFs::new()
            .file("/bin/busybox", "")
            .symlink("/sbin/init", "/bin/busybox")
            .file("/sbin/openrc-run", "")
            .symlink("/etc/runlevels/default/sshd", "/etc/init.d/sshd");
        assert_eq!(of(alpine), Some(Init::OpenRc));
        assert_eq!(of(MemFs::new().file("/sbin/init", "")), None);
        let suse = MemFs::new().file("/sbin/init", "").file("/etc/init.d/rc3.d/S01x", "");
        assert_eq!(run_level(&Draft::new(&suse), "3"), "/etc/init.d/rc3.d");
    }
}
