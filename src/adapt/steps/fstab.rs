//! `/etc/fstab`: device names of the old machine become UUIDs. See fstab(5).
//!
//! Root and swap are recognised by their contents, whatever they were called. An entry for a device
//! that the new machine does not have is kept, but the boot no longer waits for it or fails because
//! of it.

use super::console::is_systemd;
use super::crypttab;
use super::fields::{replace_field, with_options};
use super::lines::{in_short, is_comment};
use crate::Result;
use crate::adapt::devices::{Device, Devices, Meaning};
use crate::adapt::step::Step;
use crate::edit::Draft;

pub(super) const STEP: Step = Step {
    name: "fstab",
    what: "`/etc/fstab`: device names become UUIDs; entries for disks that are not there get `nofail`",
    draft,
};

fn draft(draft: &mut Draft, devices: &Devices) -> Result<()> {
    let crypttab = draft.text("/etc/crypttab").unwrap_or_default();
    let closed = crypttab::closed(&crypttab, devices);
    let mounter = BootMounter::by(draft);
    draft.edit("/etc/fstab", |text| edit(text, devices, &closed, mounter));
    Ok(())
}

/// What mounts the entries of fstab at boot, which decides how an entry becomes optional.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum BootMounter {
    /// systemd would wait 90 s before it starts units that need the directory (systemd.mount(5)).
    Systemd,
    /// mountall(8), used by Ubuntu until 14.10, waits forever unless told `nobootwait`.
    Mountall,
    /// Scripts run `fsck -A` and `mount -a`. An old fsck fails if a device is missing, and the boot
    /// ends in a shell, so the sixth field must be 0. An old mount passes options that it does not
    /// know, such as `x-systemd.…`, to the filesystem, which rejects them.
    Scripts,
}

impl BootMounter {
    fn by(draft: &Draft) -> Self {
        if is_systemd(draft) || !draft.exists("/sbin/init") {
            Self::Systemd
        } else if draft.exists("/etc/init/mountall.conf") {
            Self::Mountall
        } else {
            Self::Scripts
        }
    }

    /// Options of a device that may be missing.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Systemd => &["nofail", "x-systemd.device-timeout=5s"],
            Self::Mountall => &["nofail", "nobootwait"],
            Self::Scripts => &["nofail"],
        }
    }
}

/// Fields of an entry.
fn fields(line: &str) -> Option<Vec<&str>> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    (!is_comment(line) && fields.len() >= 3).then_some(fields)
}

/// The new text and what was changed. `closed` lists the encrypted volumes that stay closed.
fn edit(
    text: &str,
    devices: &Devices,
    closed: &[String],
    mounter: BootMounter,
) -> Option<(String, String)> {
    // Subvolumes of the root filesystem use the same device name as `/`.
    let of_root = |f: &Vec<&str>| f[1] == "/" && devices.meaning(f[0]) != Meaning::Unrelated;
    let roots: Vec<&str> =
        text.lines().filter_map(fields).filter(of_root).map(|fields| fields[0]).collect();
    let mut swaps = spare_swaps(text, devices).into_iter();
    let mut changes = Vec::new();
    let mut out = String::with_capacity(text.len() + 128);
    for line in text.split_inclusive('\n') {
        let Some(fields) = fields(line) else {
            out.push_str(line);
            continue;
        };
        let (name, mount, kind) = (fields[0], fields[1], fields[2]);
        let options = fields.get(3).copied();
        if kind == "xenfs" {
            // nofail is not enough: the unit of a mount that was tried counts as failed.
            match with_options(options, &["noauto"]) {
                Some(options) => {
                    changes.push(format!("{mount} belongs to Xen; added noauto"));
                    out.push_str(&replace_field(line, 3, &options));
                }
                None => out.push_str(line),
            }
            continue;
        }
        let is_closed =
            name.strip_prefix("/dev/mapper/").is_some_and(|n| closed.iter().any(|c| c == n));
        let meaning = match devices.meaning(name) {
            Meaning::Unrelated if is_closed => Meaning::Missing,
            Meaning::Unrelated => Meaning::Unrelated,
            _ if roots.contains(&name) && kind != "swap" => {
                devices.root().map_or(Meaning::Missing, Meaning::Present)
            }
            Meaning::Present(device) if device.swap == (kind == "swap") => Meaning::Present(device),
            _ if kind == "swap" => swaps.next().map_or(Meaning::Missing, Meaning::Present),
            _ => Meaning::Missing,
        };
        match meaning {
            Meaning::Present(device) => {
                changes.push(format!("{name} became {}", device.spec));
                out.push_str(&replace_field(line, 0, &device.spec));
            }
            Meaning::Missing => match optional(line, options, mounter) {
                Some(line) => {
                    changes.push(format!("{name} not found; added nofail"));
                    out.push_str(&line);
                }
                None => out.push_str(line),
            },
            Meaning::Unrelated => out.push_str(line),
        }
    }
    (!changes.is_empty()).then(|| (out, in_short(&changes)))
}

/// The swap areas that no entry of `text` refers to.
fn spare_swaps<'a>(text: &str, devices: &'a Devices) -> Vec<&'a Device> {
    let is_meant = |swap: &&Device| {
        text.lines().filter_map(fields).filter(|f| f[2] == "swap").any(|f| {
            f[0].eq_ignore_ascii_case(&swap.spec) || devices.meaning(f[0]) == Meaning::Present(swap)
        })
    };
    devices.swaps().filter(|swap| !is_meant(swap)).collect()
}

/// The entry `line` of a device that may be missing, made optional; `None` when it is optional
/// already or has `noauto`.
fn optional(line: &str, options: Option<&str>, mounter: BootMounter) -> Option<String> {
    if options.is_some_and(|o| o.split(',').any(|o| o == "noauto")) {
        return None;
    }
    let with_options =
        with_options(options, mounter.options()).map(|options| replace_field(line, 3, &options));
    let line = with_options.as_deref().unwrap_or(line);
    let pass = line.split_ascii_whitespace().nth(5);
    match pass.filter(|pass| mounter == BootMounter::Scripts && *pass != "0") {
        Some(_) => Some(replace_field(line, 5, "0")),
        None => with_options,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::steps::test::edits;
    use crate::fs::MemFs;

    fn devices() -> Devices {
        Devices::of(
            &[
                ("a", 2, "UUID=root", false),
                ("a", 1, "UUID=swap", true),
                ("a", 3, "UUID=home", false),
            ],
            true,
        )
    }

    #[test]
    fn as_xen_tools_writes_it() {
        let text = "# /etc/fstab\n#\nproc            /proc           proc    defaults        0 0\n\
                    /dev/xvda1 none swap sw 0 0\n\
                    /dev/xvda2 / ext4 noatime,errors=remount-ro 0 1\n";
        let (new, why) = edit(text, &devices(), &[], BootMounter::Systemd).unwrap();
        assert_eq!(new, text.replace("/dev/xvda1", "UUID=swap").replace("/dev/xvda2", "UUID=root"));
        assert_eq!(why, "/dev/xvda1 became UUID=swap, /dev/xvda2 became UUID=root");
        assert_eq!(edit(&new, &devices(), &[], BootMounter::Systemd), None);
    }

    #[test]
    fn fields_one_by_one() {
        for (line, expected) in [
            ("\t/dev/xvda3\t/home ext4\tdefaults", "\tUUID=home\t/home ext4\tdefaults"),
            (
                "/dev/xvdb1 /data ext4 ro 0 2\n",
                "/dev/xvdb1 /data ext4 ro,nofail,x-systemd.device-timeout=5s 0 2\n",
            ),
            (
                "/dev/xvdb1 /data ext4\n",
                "/dev/xvdb1 /data ext4 nofail,x-systemd.device-timeout=5s\n",
            ),
            (
                "/dev/disk/by-path/xen-vbd-51715 /home xfs defaults 0 2\n",
                "UUID=home /home xfs defaults 0 2\n",
            ),
            (
                "/dev/disk/by-id/scsi-14945540000000-part1 /data ext4 ro 0 0\n",
                "/dev/disk/by-id/scsi-14945540000000-part1 /data ext4 ro,nofail,x-systemd.device-timeout=5s 0 0\n",
            ),
            ("xenfs /proc/xen xenfs defaults 0 0\n", "xenfs /proc/xen xenfs defaults,noauto 0 0\n"),
            // The names differ from those under Xen, but root is still root and swap is still swap.
            ("/dev/sda1 / ext3 defaults 1 1", "UUID=root / ext3 defaults 1 1"),
            ("/dev/xvdd swap swap sw 0 0", "UUID=swap swap swap sw 0 0"),
            (
                "/dev/xvda1 /srv ext4 defaults 0 0",
                "/dev/xvda1 /srv ext4 defaults,nofail,x-systemd.device-timeout=5s 0 0",
            ),
        ] {
            assert_eq!(
                edit(line, &devices(), &[], BootMounter::Systemd).unwrap().0,
                expected,
                "{line}"
            );
        }
        for same in [
            "UUID=root / ext4 defaults 0 1\n",
            "#/dev/xvda2 / ext4 defaults 0 1\n",
            "tmpfs /tmp tmpfs size=1G 0 0\n",
            "/dev/xvdb1 /data ext4 noauto,x-systemd.device-timeout=3,nofail 0 2\n",
            "/dev/xvdb1 /data ext4 noauto,user 0 2\n",
            "xenfs /proc/xen xenfs noauto 0 0\n",
            "/swapfile none swap sw 0 0\n",
            "LABEL=data /data ext4 defaults 0 2\n",
            "/dev/disk/by-label/data /data ext4 defaults 0 2\n",
            "PARTUUID=6a1b2c3d-02 /home ext4 defaults 0 2\n",
            "/srv/www /var/www none bind 0 0\n",
            "nas:/export /mnt nfs4 defaults,_netdev 0 0\n",
            "/dev/mapper/vg-home /home ext4 defaults 0 2\n",
            "/dev/xvda2\n",
            "\n",
            "",
        ] {
            assert_eq!(edit(same, &devices(), &[], BootMounter::Systemd), None, "{same}");
        }
    }

    #[test]
    fn numbers_that_are_not_the_guests_mean_nothing() {
        let devices =
            Devices::of(&[("a", 1, "UUID=root", false), ("a", 2, "UUID=swap", true)], false);
        let text = "/dev/xvda2 / ext4 defaults 0 1\n/dev/xvda1 none swap sw 0 0\n/dev/xvda3 /home ext4 x 0 0\n";
        let (new, _) = edit(text, &devices, &[], BootMounter::Systemd).unwrap();
        assert_eq!(
            new,
            "UUID=root / ext4 defaults 0 1\nUUID=swap none swap sw 0 0\n/dev/xvda3 /home ext4 x,nofail,x-systemd.device-timeout=5s 0 0\n"
        );
    }

    #[test]
    fn a_swap_area_is_used_once() {
        let text = "/dev/xvdb none swap sw 0 0\n/dev/xvda1 none swap sw 0 0\n";
        let (new, _) = edit(text, &devices(), &[], BootMounter::Systemd).unwrap();
        assert_eq!(
            new,
            "/dev/xvdb none swap sw,nofail,x-systemd.device-timeout=5s 0 0\nUUID=swap none swap sw 0 0\n"
        );
        assert_eq!(edit(&new, &devices(), &[], BootMounter::Systemd), None);
    }

    #[test]
    fn uuids_and_volumes_that_are_gone() {
        let text = "UUID=none / ext4 defaults 0 1\nUUID=home /home ext4 defaults 0 2\n\
                    UUID=other /srv ext4 defaults 0 2\nUUID=old none swap sw 0 0\n\
                    /dev/mapper/vault /vault ext4 defaults 0 2\n";
        let (new, _) =
            edit(text, &devices().and_no_others(), &["vault".into()], BootMounter::Systemd)
                .unwrap();
        assert_eq!(
            new,
            "UUID=root / ext4 defaults 0 1\nUUID=home /home ext4 defaults 0 2\n\
             UUID=other /srv ext4 defaults,nofail,x-systemd.device-timeout=5s 0 2\n\
             UUID=swap none swap sw 0 0\n\
             /dev/mapper/vault /vault ext4 defaults,nofail,x-systemd.device-timeout=5s 0 2\n"
        );
        assert_eq!(
            edit(text, &devices(), &[], BootMounter::Systemd),
            None,
            "they may be on a disk that nobody looked at"
        );
    }

    /// RHEL 5 and 6, Debian before 8, Alpine; Ubuntu 10.04 to 14.10.
    #[test]
    fn who_mounts_says_how() {
        let text = "/dev/xvdb1 /data ext3 defaults 1 2\n";
        for (mounter, expected) in [
            (BootMounter::Scripts, "/dev/xvdb1 /data ext3 defaults,nofail 1 0\n"),
            (BootMounter::Mountall, "/dev/xvdb1 /data ext3 defaults,nofail,nobootwait 1 2\n"),
        ] {
            let (new, _) = edit(text, &devices(), &[], mounter).unwrap();
            assert_eq!(new, expected);
            assert_eq!(edit(&new, &devices(), &[], mounter), None, "once is enough");
        }
        let (new, _) =
            edit("/dev/xvdb1 /d ext3 nofail 0 2\n", &devices(), &[], BootMounter::Scripts).unwrap();
        assert_eq!(new, "/dev/xvdb1 /d ext3 nofail 0 0\n");
        let fs = || MemFs::new().file("/sbin/init", "").file("/etc/fstab", text);
        assert_eq!(
            edits(&fs(), &STEP),
            ["/etc/fstab = /dev/xvdb1 /data ext3 defaults,nofail 1 0\n"]
        );
        let upstart = fs().file("/etc/init/mountall.conf", "exec mountall\n");
        assert_eq!(
            edits(&upstart, &STEP),
            ["/etc/fstab = /dev/xvdb1 /data ext3 defaults,nofail,nobootwait 1 2\n"]
        );
    }

    /// SLES 12 on Btrfs, its disk given without a config.
    #[test]
    fn subvolumes_of_the_root_filesystem() {
        let text = "/dev/xvda2 / btrfs defaults 0 0\n/dev/xvda2 /home btrfs subvol=@/home 0 0\n\
                    /dev/xvda3 /srv ext4 defaults 0 0\n";
        let one = Devices::of(&[("a", 1, "UUID=root", false)], false);
        let (new, _) = edit(text, &one, &[], BootMounter::Systemd).unwrap();
        assert_eq!(
            new,
            "UUID=root / btrfs defaults 0 0\nUUID=root /home btrfs subvol=@/home 0 0\n\
             /dev/xvda3 /srv ext4 defaults,nofail,x-systemd.device-timeout=5s 0 0\n"
        );
    }

    /// Ubuntu's and Debian's cloud images, whose EFI partition is not among the images.
    #[test]
    fn labels_that_are_gone() {
        let text = "LABEL=cloudimg-rootfs / ext4 discard 0 1\n\
                    LABEL=UEFI /boot/efi vfat umask=0077 0 1\n\
                    PARTUUID=0f0f-1 /mnt vfat defaults 0 0\n";
        let one = || Devices::of(&[("a", 1, "UUID=root", false)], true);
        let known = one().with_label("a", 1, "cloudimg-rootfs").and_no_others();
        let (new, _) = edit(text, &known, &[], BootMounter::Systemd).unwrap();
        assert_eq!(
            new,
            "LABEL=cloudimg-rootfs / ext4 discard 0 1\n\
             LABEL=UEFI /boot/efi vfat umask=0077,nofail,x-systemd.device-timeout=5s 0 1\n\
             PARTUUID=0f0f-1 /mnt vfat defaults,nofail,x-systemd.device-timeout=5s 0 0\n"
        );
        assert_eq!(edit(text, &one(), &[], BootMounter::Systemd), None, "they may be anywhere");
        let root = "PARTUUID=0f0f-2 / ext4 rw 0 1\n";
        let (new, _) = edit(root, &known, &[], BootMounter::Systemd).unwrap();
        assert_eq!(new, "UUID=root / ext4 rw 0 1\n");
    }
}
