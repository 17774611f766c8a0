//! Hypervisor tools installed in a guest, and cloud-init.

use super::{files, lines};
use crate::fs::GuestFs;
use serde::Serialize;
use std::fmt;

/// A hypervisor with tools for its guests.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hypervisor {
    /// Xen, XenServer and XCP-ng.
    Xen,
    /// VMware.
    Vmware,
    /// VirtualBox.
    Virtualbox,
    /// Hyper-V.
    Hyperv,
    /// Parallels.
    Parallels,
    /// QEMU and KVM, whose tools are wanted.
    Kvm,
}

impl fmt::Display for Hypervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xen => "Xen",
            Self::Vmware => "VMware",
            Self::Virtualbox => "VirtualBox",
            Self::Hyperv => "Hyper-V",
            Self::Parallels => "Parallels",
            Self::Kvm => "KVM",
        })
    }
}

/// A hypervisor's tool in a guest.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// The hypervisor it belongs to.
    pub hypervisor: Hypervisor,
    /// The file whose presence shows that it is installed.
    pub path: &'static str,
    /// Whether it includes a kernel driver, X driver or daemon that causes problems on another
    /// hypervisor.
    pub clashes: bool,
}

const fn tool(
    name: &'static str,
    hypervisor: Hypervisor,
    path: &'static str,
    clashes: bool,
) -> Tool {
    Tool { name, hypervisor, path, clashes }
}

use Hypervisor::{Hyperv, Kvm, Parallels, Virtualbox, Vmware, Xen};

/// Files that each indicate one tool.
const TOOLS: [Tool; 16] = [
    tool("xe-guest-utilities", Xen, "/usr/sbin/xe-daemon", false),
    tool("xe-guest-utilities", Xen, "/usr/share/oem/xs/xe-daemon", false),
    tool("xen-guest-agent", Xen, "/usr/sbin/xen-guest-agent", false),
    tool("xenstore-utils", Xen, "/usr/bin/xenstore-read", false),
    tool("xen-utils", Xen, "/usr/sbin/xl", false),
    tool("VMware Tools", Vmware, "/usr/bin/vmware-config-tools.pl", true),
    tool("open-vm-tools", Vmware, "/usr/bin/vmtoolsd", false),
    tool("VMware Tools", Vmware, "/usr/sbin/vmware-guestd", true),
    tool("VirtualBox Guest Additions", Virtualbox, "/usr/sbin/VBoxService", true),
    tool("VirtualBox Guest Additions", Virtualbox, "/sbin/mount.vboxsf", true),
    tool("hyperv-daemons", Hyperv, "/usr/sbin/hv_kvp_daemon", false),
    tool("Linux Integration Services", Hyperv, "/usr/sbin/hypervkvpd", false),
    tool("Azure Linux agent", Hyperv, "/usr/sbin/waagent", true),
    tool("Parallels Tools", Parallels, "/usr/bin/prltoolsd", true),
    tool("QEMU guest agent", Kvm, "/usr/sbin/qemu-ga", false),
    tool("QEMU guest agent", Kvm, "/usr/bin/qemu-ga", false),
];

/// The installed tools, without duplicates.
pub fn tools(root: &dyn GuestFs) -> Vec<Tool> {
    let mut out: Vec<Tool> = Vec::new();
    for tool in TOOLS {
        if root.stat(tool.path).is_ok() && out.iter().all(|t| t.name != tool.name) {
            out.push(tool);
        }
    }
    out
}

/// cloud-init in a guest.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct InstalledCloudInit {
    /// Whether it will run.
    pub enabled: bool,
    /// Whether it uses a `cidata` disk: no list of data sources excludes NoCloud.
    pub nocloud: bool,
}

/// Whether cloud-init is installed, and how it is configured.
pub fn cloud_init(root: &dyn GuestFs) -> Option<InstalledCloudInit> {
    let there = |path: &str| root.stat(path).is_ok();
    if !there("/usr/bin/cloud-init") {
        return None;
    }
    let mut configs = vec!["/etc/cloud/cloud.cfg".to_owned()];
    configs.extend(files(root, "/etc/cloud/cloud.cfg.d"));
    let sources = configs.iter().filter(|path| path.ends_with(".cfg")).filter_map(|path| {
        let lines = lines(root, path);
        // Either on one line in brackets, or one source per line below.
        let at = lines.iter().position(|l| l.starts_with("datasource_list:"))?;
        let list = lines[at + 1..].iter().take_while(|l| l.starts_with('-'));
        Some(lines[at..=at].iter().chain(list).cloned().collect::<Vec<_>>().join(" "))
    });
    let nocloud = sources.last().is_none_or(|list| list.contains("NoCloud"));
    Some(InstalledCloudInit { enabled: !there("/etc/cloud/cloud-init.disabled"), nocloud })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    #[test]
    fn found_by_a_file() {
        let root = MemFs::new()
            .file("/usr/sbin/xe-daemon", "")
            .file("/usr/share/oem/xs/xe-daemon", "")
            .file("/usr/sbin/VBoxService", "");
        let found: Vec<_> = tools(&root).iter().map(|t| (t.name, t.clashes)).collect();
        assert_eq!(found, [("xe-guest-utilities", false), ("VirtualBox Guest Additions", true)]);
        assert_eq!(tools(&MemFs::new()), []);
    }

    #[test]
    fn cloud_init_and_its_sources() {
        let found = |files: &[(&str, &str)]| {
            let fs = MemFs::new().file("/usr/bin/cloud-init", "");
            cloud_init(&files.iter().fold(fs, |fs, (path, text)| fs.file(path, *text))).unwrap()
        };
        assert_eq!(cloud_init(&MemFs::new()), None);
        assert_eq!(found(&[]), InstalledCloudInit { enabled: true, nocloud: true });
        let disabled = found(&[("/etc/cloud/cloud-init.disabled", "")]);
        assert_eq!(disabled, InstalledCloudInit { enabled: false, nocloud: true });
        let list = "datasource_list: [ Ec2, None ]\n";
        let ec2 = found(&[("/etc/cloud/cloud.cfg.d/90_dpkg.cfg", list)]);
        assert_eq!(ec2, InstalledCloudInit { enabled: true, nocloud: false });
        let list = "datasource_list:\n  - NoCloud\n  - None\n";
        assert!(found(&[("/etc/cloud/cloud.cfg", list)]).nocloud);
    }
}
