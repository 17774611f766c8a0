//! `/etc/fstab`: device names of the old machine become UUIDs. See fstab(5).
//!
//! Root and swap are known by what they are, whatever they were called. A device that the new
//! machine does not have keeps its line, but no boot waits for it or fails over it any more.

use super::console::is_systemd;
use super::lines::{in_short, is_comment};
use super::{Step, crypttab};
use crate::Result;
use crate::adapt::devices::{Device, Devices, Meaning};
use crate::edit::Draft;

pub(super) const STEP: Step = Step {
    name: "fstab",
    what: "`/etc/fstab`: device names become UUIDs; entries for disks that are not there get `nofail`",
    draft,
};

fn draft(draft: &mut Draft, devices: &Devices) -> Result<()> {
    let crypttab = draft.text("/etc/crypttab").unwrap_or_default();
    let closed = crypttab::closed(&crypttab, devices);
    let missed = Missed::by(draft);
    draft.edit("/etc/fstab", |text| edit(text, devices, &closed, missed));
    Ok(())
}

/// Who mounts what fstab lists, and so what must be said of a device that may be missing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Missed {
    /// systemd would wait for 90 s before it starts what needs the directory (systemd.mount(5)).
    Systemd,
    /// mountall(8), Ubuntu's until 14.10, waits for ever unless told `nobootwait`.
    Mountall,
    /// Scripts run `fsck -A` and `mount -a`. An old fsck fails over a device that is not there, and
    /// the boot ends in a shell, so the sixth field must be 0. An old mount hands options that it does
    /// not know, as it does not know `x-systemd.…`, to the filesystem, which refuses them.
    Scripts,
}

impl Missed {
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

/// The new text and what was changed. `closed` are the encrypted volumes that nobody will open.
fn edit(
    text: &str,
    devices: &Devices,
    closed: &[String],
    missed: Missed,
) -> Option<(String, String)> {
    // Subvolumes of the root filesystem are mounted by the name that it has.
    let of_root = |f: &Vec<&str>| f[1] == "/" && devices.meaning(f[0]) != Meaning::Other;
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
            // nofail would not do: the unit of a mount that was tried counts as failed.
            match with_options(options, &["noauto"]) {
                Some(options) => {
                    changes.push(format!("{mount} is Xen's and became noauto"));
                    out.push_str(&replace_field(line, 3, &options));
                }
                None => out.push_str(line),
            }
            continue;
        }
        let is_closed =
            name.strip_prefix("/dev/mapper/").is_some_and(|n| closed.iter().any(|c| c == n));
        let meaning = match devices.meaning(name) {
            Meaning::Other if is_closed => Meaning::Gone,
            Meaning::Other => Meaning::Other,
            _ if roots.contains(&name) && kind != "swap" => {
                devices.root().map_or(Meaning::Gone, Meaning::Here)
            }
            Meaning::Here(device) if device.swap == (kind == "swap") => Meaning::Here(device),
            _ if kind == "swap" => swaps.next().map_or(Meaning::Gone, Meaning::Here),
            _ => Meaning::Gone,
        };
        match meaning {
            Meaning::Here(device) => {
                changes.push(format!("{name} became {}", device.spec));
                out.push_str(&replace_field(line, 0, &device.spec));
            }
            Meaning::Gone => match not_missed(line, options, missed) {
                Some(line) => {
                    changes.push(format!("{name} is not there and became nofail"));
                    out.push_str(&line);
                }
                None => out.push_str(line),
            },
            Meaning::Other => out.push_str(line),
        }
    }
    (!changes.is_empty()).then(|| (out, in_short(&changes)))
}

/// The swap areas that no entry of `text` means.
fn spare_swaps<'a>(text: &str, devices: &'a Devices) -> Vec<&'a Device> {
    let is_meant = |swap: &&Device| {
        text.lines().filter_map(fields).filter(|f| f[2] == "swap").any(|f| {
            f[0].eq_ignore_ascii_case(&swap.spec) || devices.meaning(f[0]) == Meaning::Here(swap)
        })
    };
    devices.swaps().filter(|swap| !is_meant(swap)).collect()
}

/// The entry `line` of a device that may be missing; `None` when it says so already, or nobody asks for
/// the device at boot.
fn not_missed(line: &str, options: Option<&str>, missed: Missed) -> Option<String> {
    if options.is_some_and(|o| o.split(',').any(|o| o == "noauto")) {
        return None;
    }
    let with_options =
        with_options(options, missed.options()).map(|options| replace_field(line, 3, &options));
    let line = with_options.as_deref().unwrap_or(line);
    let pass = line.split_ascii_whitespace().nth(5);
    match pass.filter(|pass| missed == Missed::Scripts && *pass != "0") {
        Some(_) => Some(replace_field(line, 5, "0")),
        None => with_options,
    }
}

/// `options` with those of `more` that it lacks; `None` when it lacks none. Of an option with a
/// value, any value will do.
pub(super) fn with_options(options: Option<&str>, more: &[&str]) -> Option<String> {
    let key = |option: &str| option.split('=').next().unwrap_or_default().to_owned();
    let mut all: Vec<&str> = options.map_or(Vec::new(), |o| o.split(',').collect());
    let before = all.len();
    for option in more {
        if !all.iter().any(|there| key(there) == key(option)) {
            all.push(option);
        }
    }
    (all.len() > before).then(|| all.join(","))
}

/// `line` with its field number `index` replaced, or added at its end, all white space kept.
pub(super) fn replace_field(line: &str, index: usize, new: &str) -> String {
    let mut start = 0;
    for field in 0.. {
        let rest = &line[start..];
        let begin = start + (rest.len() - rest.trim_start_matches([' ', '\t']).len());
        let len = line[begin..].find(char::is_whitespace).unwrap_or(line.len() - begin);
        if len == 0 {
            break;
        }
        if field == index {
            return format!("{}{new}{}", &line[..begin], &line[begin + len..]);
        }
        start = begin + len;
    }
    let content = line.trim_end();
    format!("{content} {new}{}", &line[content.len()..])
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
        let (new, why) = edit(text, &devices(), &[], Missed::Systemd).unwrap();
        assert_eq!(new, text.replace("/dev/xvda1", "UUID=swap").replace("/dev/xvda2", "UUID=root"));
        assert_eq!(why, "/dev/xvda1 became UUID=swap, /dev/xvda2 became UUID=root");
        assert_eq!(edit(&new, &devices(), &[], Missed::Systemd), None);
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
            // Called otherwise than under Xen, but root is root and swap is swap.
            ("/dev/sda1 / ext3 defaults 1 1", "UUID=root / ext3 defaults 1 1"),
            ("/dev/xvdd swap swap sw 0 0", "UUID=swap swap swap sw 0 0"),
            (
                "/dev/xvda1 /srv ext4 defaults 0 0",
                "/dev/xvda1 /srv ext4 defaults,nofail,x-systemd.device-timeout=5s 0 0",
            ),
        ] {
            assert_eq!(edit(line, &devices(), &[], Missed::Systemd).unwrap().0, expected, "{line}");
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
            assert_eq!(edit(same, &devices(), &[], Missed::Systemd), None, "{same}");
        }
    }

    #[test]
    fn numbers_that_are_not_the_guests_mean_nothing() {
        let devices =
            Devices::of(&[("a", 1, "UUID=root", false), ("a", 2, "UUID=swap", true)], false);
        let text = "/dev/xvda2 / ext4 defaults 0 1\n/dev/xvda1 none swap sw 0 0\n/dev/xvda3 /home ext4 x 0 0\n";
        let (new, _) = edit(text, &devices, &[], Missed::Systemd).unwrap();
        assert_eq!(
            new,
            "UUID=root / ext4 defaults 0 1\nUUID=swap none swap sw 0 0\n/dev/xvda3 /home ext4 x,nofail,x-systemd.device-timeout=5s 0 0\n"
        );
    }

    #[test]
    fn a_swap_area_is_used_once() {
        let text = "/dev/xvdb none swap sw 0 0\n/dev/xvda1 none swap sw 0 0\n";
        let (new, _) = edit(text, &devices(), &[], Missed::Systemd).unwrap();
        assert_eq!(
            new,
            "/dev/xvdb none swap sw,nofail,x-systemd.device-timeout=5s 0 0\nUUID=swap none swap sw 0 0\n"
        );
        assert_eq!(edit(&new, &devices(), &[], Missed::Systemd), None);
    }

    #[test]
    fn uuids_and_volumes_that_are_gone() {
        let text = "UUID=none / ext4 defaults 0 1\nUUID=home /home ext4 defaults 0 2\n\
                    UUID=other /srv ext4 defaults 0 2\nUUID=old none swap sw 0 0\n\
                    /dev/mapper/vault /vault ext4 defaults 0 2\n";
        let (new, _) =
            edit(text, &devices().and_no_others(), &["vault".into()], Missed::Systemd).unwrap();
        assert_eq!(
            new,
            "UUID=root / ext4 defaults 0 1\nUUID=home /home ext4 defaults 0 2\n\
             UUID=other /srv ext4 defaults,nofail,x-systemd.device-timeout=5s 0 2\n\
             UUID=swap none swap sw 0 0\n\
             /dev/mapper/vault /vault ext4 defaults,nofail,x-systemd.device-timeout=5s 0 2\n"
        );
        assert_eq!(
            edit(text, &devices(), &[], Missed::Systemd),
            None,
            "they may be on a disk that nobody looked at"
        );
    }

    /// RHEL 5 and 6, Debian before 8, Alpine; Ubuntu 10.04 to 14.10.
    #[test]
    fn who_mounts_says_how() {
        let text = "/dev/xvdb1 /data ext3 defaults 1 2\n";
        for (missed, expected) in [
            (Missed::Scripts, "/dev/xvdb1 /data ext3 defaults,nofail 1 0\n"),
            (Missed::Mountall, "/dev/xvdb1 /data ext3 defaults,nofail,nobootwait 1 2\n"),
        ] {
            let (new, _) = edit(text, &devices(), &[], missed).unwrap();
            assert_eq!(new, expected);
            assert_eq!(edit(&new, &devices(), &[], missed), None, "once is enough");
        }
        let (new, _) =
            edit("/dev/xvdb1 /d ext3 nofail 0 2\n", &devices(), &[], Missed::Scripts).unwrap();
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
        let (new, _) = edit(text, &one, &[], Missed::Systemd).unwrap();
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
        let (new, _) = edit(text, &known, &[], Missed::Systemd).unwrap();
        assert_eq!(
            new,
            "LABEL=cloudimg-rootfs / ext4 discard 0 1\n\
             LABEL=UEFI /boot/efi vfat umask=0077,nofail,x-systemd.device-timeout=5s 0 1\n\
             PARTUUID=0f0f-1 /mnt vfat defaults,nofail,x-systemd.device-timeout=5s 0 0\n"
        );
        assert_eq!(edit(text, &one(), &[], Missed::Systemd), None, "they may be anywhere");
        let root = "PARTUUID=0f0f-2 / ext4 rw 0 1\n";
        let (new, _) = edit(root, &known, &[], Missed::Systemd).unwrap();
        assert_eq!(new, "UUID=root / ext4 rw 0 1\n");
    }
}
