//! What can be right or wrong with a guest that moves to KVM, one check each.

use super::kernels::InitrdReport;
use super::partitions::{Journal, root_content};
use super::report::{Check, Outcome, Report};
use crate::guest::about::{Hypervisor, RootAccount};
use crate::plan::{DiskDriver, Plan, RootPlace};
use crate::qemu::DiskBus;

/// All checks that can be made of this guest.
pub(super) fn checks(report: &Report, plan: &Plan) -> Vec<Check> {
    let all = [
        kernel_format(report),
        disk_driver(report, plan),
        root_by_uuid(report, plan),
        unique_names(report, plan),
        fstab(report),
        left_out(plan),
        lvm(report, plan),
        network(report),
        console(report),
        shadow(report),
        clean(report, plan),
        tools(report),
        cloud_init(report),
        firmware(report),
    ];
    all.into_iter().flatten().collect()
}

fn check(name: &'static str, outcome: Outcome, detail: impl Into<String>) -> Option<Check> {
    Some(Check { name, outcome, detail: detail.into() })
}

fn kernel_format(report: &Report) -> Option<Check> {
    let kernel = report.kernels.iter().find(|k| k.default)?;
    match &kernel.problem {
        None => check("kernel", Outcome::Ok, format!("{} can start on KVM", kernel.path)),
        Some(problem) => check("kernel", Outcome::Fail, format!("{}: {problem}", kernel.path)),
    }
}

/// Whether the kernel has a driver for its disk, as the plan attaches it.
fn disk_driver(report: &Report, plan: &Plan) -> Option<Check> {
    const NAME: &str = "disk driver";
    let boot = plan.boot.as_ref()?;
    let kernel = report.kernels.iter().find(|k| k.default);
    let bus = boot.hardware.bus;
    if boot.extra_initrd {
        let evidence = match &boot.disk_driver {
            DiskDriver::Present(evidence) => evidence.as_str(),
            _ => "the initrd lacks virtio, /lib/modules has it",
        };
        return check(NAME, Outcome::Fixed, evidence);
    }
    if bus != DiskBus::default() {
        return check(NAME, Outcome::Warn, format!("no virtio; the disk goes to {}", bus.name()));
    }
    match &boot.disk_driver {
        DiskDriver::Present(evidence) => return check(NAME, Outcome::Ok, evidence.clone()),
        DiskDriver::Unknown(why) => return check(NAME, Outcome::Unknown, why.clone()),
        DiskDriver::Missing(what) => return check(NAME, Outcome::Fail, what.clone()),
        DiskDriver::Unchecked => {}
    }
    // The drivers are left alone (--adapt).
    let Some(kernel) = kernel else {
        return check(NAME, Outcome::Unknown, "the kernel's drivers were not looked at");
    };
    let read = |i: &InitrdReport| i.contents.as_ref().is_some_and(|c| c.problem.is_none());
    let is_known = kernel.drivers.modules_dir.is_some() && kernel.initrds.iter().all(read);
    match kernel.drivers.early(&["virtio_pci", "virtio_blk"]) {
        true => check(NAME, Outcome::Ok, "virtio is there from the start"),
        false if is_known => check(
            NAME,
            Outcome::Fail,
            "virtio is not there from the start, and --adapt leaves it so",
        ),
        false => check(NAME, Outcome::Unknown, "virtio may not be there from the start"),
    }
}

fn root_by_uuid(report: &Report, plan: &Plan) -> Option<Check> {
    let guest = report.command_line.as_ref()?.guest.as_deref()?;
    let root = root_word(guest);
    let boots = report.command_line.as_ref().and_then(|c| root_word(&c.boots));
    if let Some(lost) = boots.filter(|root| is_lost(root, report)) {
        let what =
            format!("root={lost}: no partition here has that, so the guest will wait for it");
        return check("root", Outcome::Fail, what);
    }
    let is_volume = matches!(plan.root, Some(RootPlace::Volume(_)));
    let lasting = root.is_some_and(|r| {
        is_volume
            || ["UUID=", "LABEL=", "PARTUUID=", "/dev/mapper/"].iter().any(|p| r.starts_with(p))
    });
    let said = root.map_or("the boot menu names no root".into(), |r| format!("root={r}"));
    check("root", if lasting { Outcome::Ok } else { Outcome::Fixed }, said)
}

/// Whether names in the guest mean one partition only.
fn unique_names(report: &Report, plan: &Plan) -> Option<Check> {
    const NAME: &str = "names";
    if let Some(copied) = &plan.copied_group {
        let what = format!("{copied}: LVM in the guest may refuse both, or use the copy");
        return check(NAME, Outcome::Unknown, what);
    }
    let shared = plan.shared_names.first()?;
    let root = root_content(&report.disks, &report.volumes, plan.root);
    let is_btrfs = root.is_some_and(|root| root.kind == "btrfs");
    let uuid = root.and_then(|root| root.uuid.as_deref());
    if is_btrfs && uuid.is_some_and(|uuid| shared.contains(uuid)) {
        let what = format!("{shared}; Linux takes copies of a Btrfs for one filesystem");
        return check(NAME, Outcome::Unknown, what);
    }
    check(NAME, Outcome::Fixed, plan.shared_names.join("; "))
}

/// The last `root=` of a command line, which is the one that takes effect.
fn root_word(cmdline: &str) -> Option<&str> {
    cmdline.split_ascii_whitespace().rev().find_map(|w| w.strip_prefix("root="))
}

/// Whether it is known that nothing has the UUID or label `root`.
fn is_lost(root: &str, report: &Report) -> bool {
    let partitions: Vec<_> = report.disks.iter().flat_map(|d| &d.partitions).collect();
    // Nested contents, and those of an image that is a whole disk, have identifiers that were not
    // read.
    if partitions.iter().any(|p| p.content.uuid.is_none() || p.number == 0) {
        return false;
    }
    let has = |value: Option<&String>, wanted: &str| {
        value.is_some_and(|value| value.eq_ignore_ascii_case(wanted.trim_matches('"')))
    };
    match root.split_once('=') {
        Some(("UUID", wanted)) => !partitions.iter().any(|p| has(p.content.uuid.as_ref(), wanted)),
        Some(("LABEL", wanted)) => {
            !partitions.iter().any(|p| has(p.content.label.as_ref(), wanted))
        }
        _ => false,
    }
}

fn has_edit_of(report: &Report, step: &str) -> bool {
    report.edits.iter().any(|e| e.step == step)
}

/// Whether all edits can be made that the guest needs.
fn left_out(plan: &Plan) -> Option<Check> {
    match plan.left_out.as_slice() {
        [] => None,
        list => check("edits", Outcome::Warn, list.join("; ")),
    }
}

fn fstab(report: &Report) -> Option<Check> {
    let guest = report.guest.as_ref()?;
    if guest.fstab.is_empty() {
        return check("fstab", Outcome::Warn, "/etc/fstab has no entries");
    }
    let foreign = guest.fstab.iter().filter(|e| e.machine_dependent);
    let mut named: Vec<&str> = foreign.map(|e| e.source.as_str()).collect();
    // Subvolumes share the same source.
    named.sort_unstable();
    named.dedup();
    let edit = report.edits.iter().find(|e| e.step == "fstab");
    match (named.is_empty(), edit) {
        // For example, UUIDs and labels of missing disks.
        (true, Some(edit)) => check("fstab", Outcome::Fixed, edit.why.clone()),
        (true, None) => check("fstab", Outcome::Ok, "names no disk of the old machine"),
        (false, Some(_)) => check("fstab", Outcome::Fixed, format!("names {}", named.join(", "))),
        // Names left after the edits are harmless: their entries have nofail.
        (false, None) => check("fstab", Outcome::Warn, format!("names {}", named.join(", "))),
    }
}

/// Whether LVM in the guest looks at the disk. Its settings are also in the initrd.
fn lvm(report: &Report, plan: &Plan) -> Option<Check> {
    const NAME: &str = "lvm";
    if plan.volumes.is_empty() {
        return None;
    }
    let filters = &report.guest.as_ref()?.lvm_filters;
    if filters.is_empty() {
        return check(NAME, Outcome::Ok, "no filter keeps LVM from the disk");
    }
    let names = filters.join(" and ");
    let what = format!(
        "{names} in /etc/lvm/lvm.conf accepts only disks of Xen, and the initrd may have a copy; \
         change it in the guest and rebuild its initrd, or try --append rd.lvm.conf=0 (dracut)"
    );
    check(NAME, Outcome::Warn, what)
}

fn network(report: &Report) -> Option<Check> {
    let network = &report.guest.as_ref()?.network;
    let boots = report.command_line.as_ref().map_or("", |c| c.boots.as_str());
    let names = network.names.join(", ");
    let old = network.names.iter().any(|n| n.starts_with("eth") || n.starts_with("enX"));
    match (network.names.is_empty(), old) {
        (true, _) => check("network", Outcome::Ok, "the configuration names no interface"),
        (false, true) if boots.contains("net.ifnames=0") => {
            check("network", Outcome::Fixed, format!("configures {names}"))
        }
        (false, true) => {
            check("network", Outcome::Warn, format!("configures {names}; it may be ens3 here"))
        }
        (false, false) => check(
            "network",
            Outcome::Warn,
            format!("configures {names}, which depend on the PCI slot"),
        ),
    }
}

fn console(report: &Report) -> Option<Check> {
    let console = &report.guest.as_ref()?.console;
    let is_xen = |t: &&String| t.starts_with("hvc") || t.starts_with("xvc");
    let xen: Vec<&str> = console.terminals.iter().filter(is_xen).map(String::as_str).collect();
    let edited = ["inittab", "upstart", "systemd-console", "openrc", "securetty"]
        .iter()
        .any(|step| has_edit_of(report, step));
    if edited {
        let what = if xen.is_empty() { "no root login on ttyS0".into() } else { xen.join(", ") };
        return check("console", Outcome::Fixed, format!("login on {what} moves to ttyS0"));
    }
    match xen.is_empty() {
        true => check("console", Outcome::Ok, "no login waits for a console of Xen"),
        false => check("console", Outcome::Warn, format!("a login on {}", xen.join(", "))),
    }
}

fn shadow(report: &Report) -> Option<Check> {
    let (outcome, detail) = match report.guest.as_ref()?.root_account {
        RootAccount::Password => (Outcome::Ok, "root has a password"),
        RootAccount::Locked => (Outcome::Ok, "root has no password that works: log in by key"),
        RootAccount::NoPassword => (Outcome::Warn, "root needs no password"),
        RootAccount::Missing => (Outcome::Warn, "/etc/shadow has no line for root"),
        RootAccount::NoFile => (Outcome::Warn, "/etc/shadow cannot be read"),
    };
    check("shadow", outcome, detail)
}

fn clean(report: &Report, plan: &Plan) -> Option<Check> {
    let root = root_content(&report.disks, &report.volumes, plan.root)?;
    match root.journal? {
        Journal::Errors => check(
            "journal",
            Outcome::Warn,
            "the filesystem has errors that its kernel has found: its next boot may repair it, or ask \
             for a person; repair a copy first (e2fsck -f)",
        ),
        Journal::Clean => check("journal", Outcome::Ok, "the filesystem is clean"),
        Journal::Dirty if !root.kind.starts_with("ext") => check(
            "journal",
            Outcome::Ok,
            "the guest was not shut down; its kernel replays the journal when it boots",
        ),
        Journal::Dirty => check(
            "journal",
            Outcome::Fixed,
            "the guest was not shut down; its journal is replayed in the overlay",
        ),
    }
}

fn tools(report: &Report) -> Option<Check> {
    let tools = &report.guest.as_ref()?.tools;
    let foreign: Vec<_> = tools.iter().filter(|t| t.hypervisor != Hypervisor::Kvm).collect();
    let names: Vec<String> =
        foreign.iter().map(|t| format!("{} ({})", t.name, t.hypervisor)).collect();
    let names = names.join(", ");
    if foreign.is_empty() {
        return check("tools", Outcome::Ok, "no tools of another hypervisor");
    }
    if has_edit_of(report, "agents") {
        return check("tools", Outcome::Fixed, format!("{names}: disabled where it would fail"));
    }
    match foreign.iter().any(|t| t.clashes) {
        true => check("tools", Outcome::Warn, format!("{names}: better uninstalled")),
        false => check("tools", Outcome::Ok, format!("{names}: does nothing without Xen")),
    }
}

fn cloud_init(report: &Report) -> Option<Check> {
    let (outcome, detail) = match report.guest.as_ref()?.cloud_init.as_ref() {
        None => (Outcome::Ok, "not installed"),
        Some(c) if !c.enabled => (Outcome::Ok, "installed, but disabled"),
        Some(c) if c.nocloud => (Outcome::Ok, "takes a seed of --cloud-init"),
        Some(_) => (Outcome::Warn, "its list of sources has no NoCloud: a seed is not seen"),
    };
    check("cloud-init", outcome, detail)
}

fn firmware(report: &Report) -> Option<Check> {
    let disk = report.disks.first()?;
    let efi = report.guest.as_ref().is_some_and(|g| {
        g.fstab.iter().any(|e| e.mountpoint == "/boot/efi" || e.mountpoint == "/efi")
    });
    let table = disk.table;
    let name = if disk.firmware == Some("uefi") { "UEFI" } else { "BIOS" };
    match (table, efi) {
        ("as it is", _) => check("firmware", Outcome::Ok, "a disk of its own; boots by itself"),
        (_, true) => check(
            "firmware",
            Outcome::Ok,
            format!("was made for EFI; boots under {name} here ({table})"),
        ),
        (_, false) => check("firmware", Outcome::Ok, format!("{name} ({table})")),
    }
}
