//! Services that talk to Xen: the guest agents of XenServer, XCP-ng and Rackspace, and Xen's own
//! daemons. On KVM they fail or retry forever. They are disabled by the means of the init system: a
//! unit is masked (systemd.unit(5)), a job is overridden (init(5) of upstart), a start link is
//! removed. Agents of other hypervisors are left alone.

use super::systemd_console::enabled;
use crate::Result;
use crate::adapt::devices::Devices;
use crate::adapt::step::Step;
use crate::edit::Draft;

pub(super) const STEP: Step = Step {
    name: "agents",
    what: "services that need Xen, such as `xe-daemon` and `xenstored`, do not start",
    draft,
};

/// Agents that run in guests.
const AGENTS: [&str; 8] = [
    "xe-linux-distribution",
    "xe-daemon",
    "xe-guest-utilities",
    "xen-guest-agent",
    "xen-guest-daemon",
    "xenballoond",
    "xs-tools",
    "nova-agent",
];
/// Xen's own daemons. Their init scripts start them only in dom0; not all of their units are that
/// careful.
const DAEMONS: [&str; 8] = [
    "xen",
    "xencommons",
    "xenstored",
    "xenconsoled",
    "xendomains",
    "xen-watchdog",
    "xen-init-dom0",
    "xend",
];

const UNITS: &str = "/etc/systemd/system";
/// Where distributions and administrators keep units.
const UNIT_DIRS: [&str; 4] =
    [UNITS, "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

fn draft(draft: &mut Draft, _: &Devices) -> Result<()> {
    units(draft);
    links(draft);
    for agent in AGENTS {
        if draft.is_there(&format!("/etc/init/{agent}.conf")) {
            let path = format!("/etc/init/{agent}.override");
            let is_manual = |text: String| text.lines().any(|line| line.trim() == "manual");
            if !draft.text(&path).is_some_and(is_manual) {
                let old = draft.text(&path).unwrap_or_default();
                draft.rewrite(&path, format!("{old}manual\n"), why(agent));
            }
        }
    }
    Ok(())
}

fn why(service: &str) -> String {
    format!("{service} needs Xen: disabled")
}

/// systemd units that something starts.
fn units(draft: &mut Draft) {
    for link in enabled(draft) {
        let name = link.rsplit('/').next().unwrap_or_default();
        let service = name.strip_suffix(".service").unwrap_or_default();
        if !AGENTS.contains(&service) && !DAEMONS.contains(&service) || minds_xen(draft, name) {
            continue;
        }
        let unit = format!("{UNITS}/{name}");
        if draft.text(&unit).is_some() && !is_alias(draft, &unit) {
            // An administrator's own unit: a mask would have to replace it.
            draft.remove(&link, why(service));
        } else if !is_masked(draft, &unit) {
            draft.symlink(&unit, "/dev/null", why(service));
        }
    }
}

/// Whether the unit is a symlink to another path.
fn is_alias(draft: &Draft, unit: &str) -> bool {
    draft.root().canonicalize(unit).is_ok_and(|path| path != unit)
}

/// Whether the unit is masked: something exists at its path that is not a unit file.
fn is_masked(draft: &Draft, unit: &str) -> bool {
    draft.is_there(unit) && draft.text(unit).is_none()
}

/// Whether systemd skips the unit when there is no Xen.
fn minds_xen(draft: &Draft, name: &str) -> bool {
    let files = UNIT_DIRS.iter().flat_map(|dir| {
        let mut files = draft.paths(&format!("{dir}/{name}.d"));
        files.insert(0, format!("{dir}/{name}"));
        files
    });
    files.filter_map(|file| draft.text(&file)).any(|text| text.lines().any(is_condition))
}

fn is_condition(line: &str) -> bool {
    let Some((key, value)) = line.trim().split_once('=') else { return false };
    match (key.trim_end(), value.trim()) {
        ("ConditionVirtualization", value) => value == "xen",
        (
            "ConditionPathExists" | "ConditionPathIsDirectory" | "ConditionPathIsMountPoint",
            path,
        ) => ["/proc/xen", "/dev/xen", "/sys/hypervisor", "/proc/sys/xen"]
            .iter()
            .any(|there| path.starts_with(there)),
        _ => false,
    }
}

/// Start links of System V scripts, and OpenRC's links to services in runlevels.
fn links(draft: &mut Draft) {
    let roots = ["/etc", "/etc/rc.d", "/etc/init.d"];
    let levels = ["2", "3", "4", "5", "S"];
    let dirs = roots.iter().flat_map(|root| levels.map(|level| format!("{root}/rc{level}.d")));
    for dir in dirs {
        for name in draft.names(&dir) {
            // S20name starts the service; K20name stops it, which does no harm.
            let number = name.strip_prefix('S').and_then(|n| n.split_at_checked(2));
            let service = number.filter(|(n, _)| n.bytes().all(|b| b.is_ascii_digit()));
            if let Some((_, service)) = service.filter(|(_, service)| AGENTS.contains(service)) {
                draft.remove(&format!("{dir}/{name}"), why(service));
            }
        }
    }
    for runlevel in draft.paths("/etc/runlevels") {
        for name in draft.names(&runlevel).into_iter().filter(|n| AGENTS.contains(&n.as_str())) {
            draft.remove(&format!("{runlevel}/{name}"), why(&name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::steps::test::{edits, is_settled};
    use crate::fs::MemFs;

    /// The unit of the guest agent, as XenServer ships it.
    const XE: &str = "[Unit]\nDescription=Linux Guest Agent\n\n[Service]\n\
        ExecStartPre=/usr/share/oem/xs/xe-linux-distribution /var/cache/xe-linux-distribution\n\
        ExecStart=/usr/share/oem/xs/xe-daemon\n\n[Install]\nWantedBy=multi-user.target\n";
    const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";

    fn with_unit(name: &str, dir: &str, text: &str) -> MemFs {
        let unit = format!("{dir}/{name}");
        MemFs::new().file(&unit, text).symlink(&format!("{WANTS}/{name}"), &unit)
    }

    #[test]
    fn units_are_masked() {
        let name = "xe-linux-distribution.service";
        let fs = || with_unit(name, "/usr/lib/systemd/system", XE);
        assert_eq!(edits(&fs(), &STEP), [format!("/etc/systemd/system/{name} -> /dev/null")]);
        assert!(is_settled(fs(), &STEP));
        let own = || with_unit(name, "/etc/systemd/system", XE);
        assert_eq!(edits(&own(), &STEP), [format!("{WANTS}/{name} removed")]);
        assert!(is_settled(own(), &STEP));
        let not_enabled = fs().without(&format!("{WANTS}/{name}"));
        assert_eq!(edits(&not_enabled, &STEP), [""; 0]);
    }

    #[test]
    fn units_that_ask_for_xen_stay() {
        for condition in
            ["ConditionVirtualization=xen", "ConditionPathExists=/proc/xen/capabilities"]
        {
            let text = format!("[Unit]\nDescription=The Xen xenstore\n{condition}\n");
            let fs = with_unit("xenstored.service", "/lib/systemd/system", &text);
            assert_eq!(edits(&fs, &STEP), [""; 0], "{condition}");
        }
        let fs = with_unit("xe-daemon.service", "/lib/systemd/system", XE).file(
            "/etc/systemd/system/xe-daemon.service.d/a.conf",
            "[Unit]\nConditionVirtualization=xen\n",
        );
        assert_eq!(edits(&fs, &STEP), [""; 0]);
        for other in ["ConditionVirtualization=!xen", "ConditionPathExists=!/proc/xen", "Type=xen"]
        {
            assert!(!is_condition(other), "{other}");
        }
        let fs = with_unit("qemu-guest-agent.service", "/lib/systemd/system", "[Unit]\n");
        assert_eq!(edits(&fs, &STEP), [""; 0]);
    }

    #[test]
    fn scripts_and_jobs() {
        let fs = MemFs::new()
            .file("/etc/init.d/xe-linux-distribution", "#!/bin/bash\n")
            .symlink("/etc/rc2.d/S04xe-linux-distribution", "../init.d/xe-linux-distribution")
            .symlink("/etc/rc2.d/S01cron", "../init.d/cron")
            .symlink("/etc/rc0.d/K04xe-linux-distribution", "../init.d/xe-linux-distribution")
            .symlink("/etc/rc3.d", "rc.d/rc3.d")
            .symlink("/etc/rc.d/rc3.d/S20nova-agent", "../init.d/nova-agent")
            .symlink("/etc/runlevels/default/xe-guest-utilities", "/etc/init.d/xe-guest-utilities")
            .symlink("/etc/runlevels/default/sshd", "/etc/init.d/sshd")
            .file("/etc/init/xe-daemon.conf", "start on runlevel [2345]\n");
        let expected = [
            "/etc/rc2.d/S04xe-linux-distribution removed",
            "/etc/rc.d/rc3.d/S20nova-agent removed",
            "/etc/runlevels/default/xe-guest-utilities removed",
            "/etc/init/xe-daemon.override = manual\n",
        ];
        assert_eq!(edits(&fs, &STEP), expected);
        assert!(is_settled(fs, &STEP));
    }
}
