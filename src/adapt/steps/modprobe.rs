//! Kernel modules: aliases to Xen's drivers, Xen modules that are loaded at boot, and settings that
//! keep virtio modules from being loaded. See modprobe.d(5), modules-load.d(5).
//!
//! Without Xen, its modules are not found or fail with `ENODEV`. systemd-modules-load.service fails
//! if a module is not found, and up to systemd 230 or so on `ENODEV` as well.

use super::lines::{assigned, comment_out, edit_lines, replace_word};
use crate::Result;
use crate::adapt::devices::Devices;
use crate::adapt::step::Step;
use crate::edit::Draft;

pub(super) const STEP: Step = Step {
    name: "modprobe",
    what: "`/etc/modprobe.d`, `/etc/modules`, SUSE's `INITRD_MODULES`: `xennet` and `xenblk` give way to virtio, nothing blocks virtio",
    draft,
};

const ALIASES: [&str; 3] = ["/etc/modprobe.conf", "/etc/modprobe.conf.local", "/etc/modules.conf"];
const LISTS: [&str; 1] = ["/etc/modules"];

fn draft(draft: &mut Draft, _: &Devices) -> Result<()> {
    let mut aliases = draft.paths("/etc/modprobe.d");
    aliases.extend(ALIASES.map(str::to_owned));
    for file in aliases {
        draft.edit(&file, |text| edit_lines(text, directive));
    }
    let lists = draft.paths("/etc/modules-load.d").into_iter();
    let lists = lists.filter(|path| path.ends_with(".conf"));
    for file in lists.chain(LISTS.map(str::to_owned)) {
        draft.edit(&file, |text| edit_lines(text, listed));
    }
    draft.edit(SUSE, |text| edit_lines(text, suse));
    Ok(())
}

/// Lists what SUSE's mkinitrd puts into an initrd, and what its boot script loads.
const SUSE: &str = "/etc/sysconfig/kernel";

/// A SUSE variable that lists modules, separated by spaces.
fn suse(line: &str) -> Option<(String, String)> {
    let keys =
        [("INITRD_MODULES", &["virtio_pci", "virtio_blk"][..]), ("MODULES_LOADED_ON_BOOT", &[])];
    let (key, value, virtio) =
        keys.iter().find_map(|(key, virtio)| Some((key, assigned(line, key)?, *virtio)))?;
    let list = value.trim_matches(['"', '\'']);
    let (gone, kept): (Vec<&str>, Vec<&str>) =
        list.split_ascii_whitespace().partition(|module| is_xens(module));
    if gone.is_empty() {
        return None;
    }
    let lacking = virtio.iter().filter(|module| !kept.contains(module));
    let modules: Vec<&str> = lacking.copied().chain(kept.iter().copied()).collect();
    let why = format!("{key} without {}", gone.join(", "));
    Some((format!("{key}=\"{}\"", modules.join(" ")), why))
}

/// Virtio modules without which a disk or a network card is missing.
const VIRTIO: [&str; 6] =
    ["virtio", "virtio_ring", "virtio_pci", "virtio_blk", "virtio_net", "virtio_scsi"];

/// A line of modprobe's configuration.
fn directive(line: &str) -> Option<(String, String)> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    match words[..] {
        // Only Xen's own devices and tools ask for a name that starts with `xen`.
        ["alias", name, ..] if name.starts_with("xen") => None,
        ["alias", name, module, ..] if is_xens(module) => match driver_of(name) {
            Some(driver) => {
                let why = format!("{name} is {driver}, not {module}");
                Some((replace_last(line, module, driver), why))
            }
            None => comment_out(line, format!("alias to {module} dropped")),
        },
        ["blacklist", module, ..] if is_virtio(module) => {
            comment_out(line, format!("{module} is needed: no blacklist"))
        }
        ["install", module, command, ..] if is_virtio(module) && does_nothing(command) => {
            comment_out(line, format!("{module} is needed: may be loaded"))
        }
        _ => None,
    }
}

/// The module that serves on KVM in place of the one that the alias `name` meant. Red Hat's
/// mkinitrd reads these aliases to decide what an initrd must hold.
fn driver_of(name: &str) -> Option<&'static str> {
    let is_number = |rest: &str| rest.bytes().all(|b| b.is_ascii_digit());
    if name.strip_prefix("eth").is_some_and(is_number) {
        return Some("virtio_net");
    }
    name.strip_prefix("scsi_hostadapter").is_some_and(is_number).then_some("virtio_blk")
}

/// A line of a module list: a name and parameters.
fn listed(line: &str) -> Option<(String, String)> {
    let module = line.split_ascii_whitespace().next()?;
    is_xens(module).then_some(())?;
    comment_out(line, format!("{module} is not loaded"))
}

/// Whether a module is one of Xen's.
fn is_xens(module: &str) -> bool {
    let module = module.replace('-', "_");
    let rest = module.strip_prefix("xen");
    // xennet, xenblk, xenfs; xen_netfront, xen_vbd. Xenomai's modules do not match.
    rest.is_some_and(|r| {
        r.starts_with('_') || ["net", "blk", "fs", "bus_probe_frontend"].contains(&r)
    }) || ["evtchn", "gntdev"].contains(&&*module)
}

fn is_virtio(module: &str) -> bool {
    VIRTIO.contains(&&*module.replace('-', "_"))
}

fn does_nothing(command: &str) -> bool {
    let name = command.rsplit('/').next();
    name.is_some_and(|name| ["true", "false", ":"].contains(&name))
}

/// `line` with the last occurrence of `old` replaced.
fn replace_last(line: &str, old: &str, new: &str) -> String {
    let (before, last) = line.split_at(line.rfind(old).unwrap_or(line.len()));
    format!("{before}{}", if last == old { new.to_owned() } else { replace_word(last, old, new) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::steps::test::{edits, is_settled};
    use crate::fs::MemFs;

    #[test]
    fn directives() {
        for (line, new) in [
            ("alias eth0 xennet", "alias eth0 virtio_net"),
            ("alias\teth1\txen-vnif", "alias\teth1\tvirtio_net"),
            ("alias scsi_hostadapter xenblk", "alias scsi_hostadapter virtio_blk"),
            ("alias scsi_hostadapter1 xen-vbd # disk", "alias scsi_hostadapter1 virtio_blk # disk"),
            ("alias block-major-202-* xenblk", "#alias block-major-202-* xenblk"),
            ("blacklist virtio-pci", "#blacklist virtio-pci"),
            ("install virtio_blk /bin/true", "#install virtio_blk /bin/true"),
        ] {
            let (edited, _) = directive(line).unwrap();
            assert_eq!(edited, new);
            assert_eq!(edit_lines(&edited, directive), None, "once is enough");
        }
        for same in [
            "alias eth0 e1000",
            "alias net-pf-10 off",
            "options xennet rx_copy=1",
            "blacklist virtio_balloon",
            "install virtio_net /sbin/modprobe --ignore-install virtio_net mq=1",
            "alias char-major-10-200 xenomai",
            "alias xenblk xen-blkfront",
            "alias xen:vbd xen-blkfront",
            "",
        ] {
            assert_eq!(directive(same), None, "{same}");
        }
    }

    /// SLES 10 and 11.
    #[test]
    fn suses_variables() {
        for (line, new) in [
            (
                "INITRD_MODULES=\"xenblk xennet ext3 jbd\"",
                "INITRD_MODULES=\"virtio_pci virtio_blk ext3 jbd\"",
            ),
            ("INITRD_MODULES='virtio_blk xen-vbd'", "INITRD_MODULES=\"virtio_pci virtio_blk\""),
            ("MODULES_LOADED_ON_BOOT=\"xenfs loop\"", "MODULES_LOADED_ON_BOOT=\"loop\""),
        ] {
            assert_eq!(suse(line).unwrap().0, new);
            assert_eq!(suse(new), None, "once is enough");
        }
        for same in ["INITRD_MODULES=\"ext3\"", "DOMU_INITRD_MODULES=\"xennet xenblk\"", "x"] {
            assert_eq!(suse(same), None, "{same}");
        }
        let fs = MemFs::new().file("/etc/sysconfig/kernel", "INITRD_MODULES=\"xennet ext3\"\n");
        assert!(is_settled(fs, &STEP));
    }

    #[test]
    fn files() {
        let fs = MemFs::new()
            .file("/etc/modprobe.conf", "alias eth0 xennet\nalias scsi_hostadapter xenblk\n")
            .file("/etc/modprobe.d/xen.conf", "blacklist 8139cp\nblacklist virtio_net\n")
            .file("/etc/modules", "# at boot\nxennet\nloop max_loop=64\nxen-blkfront\nevtchn")
            .file("/etc/modules-load.d/xen.conf", "xen-evtchn\nxenfs\n")
            .file("/etc/modules-load.d/other.conf", "nf_conntrack\n")
            .file("/etc/modules-load.d/README", "xennet\n");
        let expected = [
            "/etc/modprobe.d/xen.conf = blacklist 8139cp\n#blacklist virtio_net\n",
            "/etc/modprobe.conf = alias eth0 virtio_net\nalias scsi_hostadapter virtio_blk\n",
            "/etc/modules-load.d/xen.conf = #xen-evtchn\n#xenfs\n",
            "/etc/modules = # at boot\n#xennet\nloop max_loop=64\n#xen-blkfront\n#evtchn",
        ];
        assert_eq!(edits(&fs, &STEP), expected);
        assert!(is_settled(fs, &STEP));
    }
}
