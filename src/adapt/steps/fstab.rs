//! `/etc/fstab`: device names of the old machine become UUIDs. See fstab(5).
//!
//! Root and swap are known by what they are, whatever they were called. A device that the new
//! machine does not have keeps its line, but no boot waits for it or fails over it any more.

use super::Step;
use crate::Result;
use crate::adapt::devices::{Devices, Meaning};
use crate::adapt::draft::Draft;

pub(super) const STEP: Step = Step {
    name: "fstab",
    what: "`/etc/fstab`: device names become UUIDs; entries for disks that are not there get `nofail`",
    draft,
};

fn draft(draft: &mut Draft) -> Result<()> {
    let devices = draft.devices();
    draft.edit("/etc/fstab", |text| edit(text, devices));
    Ok(())
}

/// The new text and what was changed.
fn edit(text: &str, devices: &Devices) -> Option<(String, String)> {
    let mut swaps = devices.swaps();
    let mut changes = Vec::new();
    let mut out = String::with_capacity(text.len() + 128);
    for line in text.split_inclusive('\n') {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (&[name, mount, kind, ..], false) = (&fields[..], line.trim_start().starts_with('#'))
        else {
            out.push_str(line);
            continue;
        };
        let meaning = match devices.meaning(name) {
            Meaning::Other => Meaning::Other,
            _ if mount == "/" => devices.root().map_or(Meaning::Gone, Meaning::Here),
            Meaning::Here(device) if device.swap == (kind == "swap") => Meaning::Here(device),
            _ if kind == "swap" => swaps.next().map_or(Meaning::Gone, Meaning::Here),
            _ => Meaning::Gone,
        };
        match meaning {
            Meaning::Here(device) => {
                changes.push(format!("{name} became {}", device.spec));
                out.push_str(&replace_field(line, 0, &device.spec));
            }
            Meaning::Gone => match not_missed(fields.get(3).copied()) {
                Some(options) => {
                    changes.push(format!("{name} is not there and became nofail"));
                    out.push_str(&replace_field(line, 3, &options));
                }
                None => out.push_str(line),
            },
            Meaning::Other => out.push_str(line),
        }
    }
    (!changes.is_empty()).then(|| (out, in_short(&changes)))
}

/// Changes that are named one by one, at most.
const MOST_NAMED: usize = 10;

fn in_short(changes: &[String]) -> String {
    let named = changes.len().min(MOST_NAMED);
    let more = match changes.len() - named {
        0 => String::new(),
        n => format!(", and {n} more"),
    };
    changes[..named].join(", ") + &more
}

/// Options of a device that may be missing: nothing fails over it, and systemd, which would wait for
/// 90 s before it starts what needs the directory, does not (systemd.mount(5)). Nobody but systemd
/// looks at `x-` options.
const NOT_MISSED: [&str; 2] = ["nofail", "x-systemd.device-timeout=5s"];

/// `options` with those of [`NOT_MISSED`] that it lacks; `None` when it lacks none.
fn not_missed(options: Option<&str>) -> Option<String> {
    let key = |option: &'static str| option.split('=').next();
    let mut all: Vec<&str> = options.map_or(Vec::new(), |o| o.split(',').collect());
    let before = all.len();
    for option in NOT_MISSED {
        if !all.iter().any(|there| there.split('=').next() == key(option)) {
            all.push(option);
        }
    }
    (all.len() > before).then(|| all.join(","))
}

/// `line` with its field number `index` replaced, or added at its end, all white space kept.
fn replace_field(line: &str, index: usize, new: &str) -> String {
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
        let (new, why) = edit(text, &devices()).unwrap();
        assert_eq!(new, text.replace("/dev/xvda1", "UUID=swap").replace("/dev/xvda2", "UUID=root"));
        assert_eq!(why, "/dev/xvda1 became UUID=swap, /dev/xvda2 became UUID=root");
        assert_eq!(edit(&new, &devices()), None);
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
            // Called otherwise than under Xen, but root is root and swap is swap.
            ("/dev/sda1 / ext3 defaults 1 1", "UUID=root / ext3 defaults 1 1"),
            ("/dev/xvdd swap swap sw 0 0", "UUID=swap swap swap sw 0 0"),
            (
                "/dev/xvda1 /srv ext4 defaults 0 0",
                "/dev/xvda1 /srv ext4 defaults,nofail,x-systemd.device-timeout=5s 0 0",
            ),
        ] {
            assert_eq!(edit(line, &devices()).unwrap().0, expected, "{line}");
        }
        for same in [
            "UUID=root / ext4 defaults 0 1\n",
            "#/dev/xvda2 / ext4 defaults 0 1\n",
            "tmpfs /tmp tmpfs size=1G 0 0\n",
            "/dev/xvdb1 /data ext4 noauto,x-systemd.device-timeout=3,nofail 0 2\n",
            "/dev/mapper/vg-home /home ext4 defaults 0 2\n",
            "/dev/xvda2\n",
            "\n",
            "",
        ] {
            assert_eq!(edit(same, &devices()), None, "{same}");
        }
    }

    #[test]
    fn numbers_that_are_not_the_guests_mean_nothing() {
        let devices =
            Devices::of(&[("a", 1, "UUID=root", false), ("a", 2, "UUID=swap", true)], false);
        let text = "/dev/xvda2 / ext4 defaults 0 1\n/dev/xvda1 none swap sw 0 0\n/dev/xvda3 /home ext4 x 0 0\n";
        let (new, _) = edit(text, &devices).unwrap();
        assert_eq!(
            new,
            "UUID=root / ext4 defaults 0 1\nUUID=swap none swap sw 0 0\n/dev/xvda3 /home ext4 x,nofail,x-systemd.device-timeout=5s 0 0\n"
        );
    }
}
