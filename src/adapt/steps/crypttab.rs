//! `/etc/crypttab`: devices of encrypted volumes. See crypttab(5), which Debian's and systemd's
//! tools read in the same way.

use super::fields::{replace_field, with_options};
use super::lines::{edit_lines, is_comment};
use crate::Result;
use crate::adapt::devices::{Devices, Meaning};
use crate::adapt::step::Step;
use crate::edit::Draft;

pub(super) const STEP: Step = Step {
    name: "crypttab",
    what: "`/etc/crypttab`: the same for the devices of encrypted volumes",
    draft,
};

/// Options for an optional device, as in fstab.
const NOT_MISSED: [&str; 2] = ["nofail", "x-systemd.device-timeout=5s"];

fn draft(draft: &mut Draft, devices: &Devices) -> Result<()> {
    draft.edit("/etc/crypttab", |text| edit_lines(text, |line| entry(line, devices)));
    Ok(())
}

/// What the device of an entry refers to.
fn spec<'a>(fields: &[&str], devices: &'a Devices) -> Meaning<'a> {
    let Some(name) = fields.get(1) else { return Meaning::Unrelated };
    match devices.meaning(name) {
        // A device that holds a filesystem was never encrypted with a random key by this entry.
        Meaning::Present(device) if is_random(fields) && !device.swap && device.uuid.is_some() => {
            Meaning::Missing
        }
        meaning => meaning,
    }
}

fn is_random(fields: &[&str]) -> bool {
    fields.get(2).is_some_and(|key| ["/dev/urandom", "/dev/random", "/dev/hwrng"].contains(key))
}

fn entry(line: &str, devices: &Devices) -> Option<(String, String)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    match spec(&fields, devices) {
        Meaning::Present(device) => {
            // With a new key at each boot, nothing stored in the device survives, not even a UUID.
            let spec = match is_random(&fields) {
                true => format!("PARTUUID={}", device.partuuid),
                false => device.spec.clone(),
            };
            let why = format!("{} became {spec}", fields[1]);
            Some((replace_field(line, 1, &spec), why))
        }
        Meaning::Missing => {
            if fields.get(3).is_some_and(|o| o.split(',').any(|o| o == "noauto")) {
                return None;
            }
            let options = with_options(fields.get(3).copied(), &NOT_MISSED)?;
            let line = match fields.get(2) {
                Some(_) => line.to_owned(),
                None => replace_field(line, 2, "none"),
            };
            let why = format!("{} not found; added nofail", fields[1]);
            Some((replace_field(&line, 3, &options), why))
        }
        Meaning::Unrelated => None,
    }
}

/// Names of the volumes in `text` that stay closed because their devices are missing.
pub(super) fn closed(text: &str, devices: &Devices) -> Vec<String> {
    let entries = text.lines().filter(|line| !is_comment(line));
    let fields = entries.map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    fields.filter(|f| spec(f, devices) == Meaning::Missing).map(|f| f[0].to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        let devices = Devices::of(
            &[
                ("a", 2, "UUID=r", false),
                ("a", 3, "PARTUUID=p-03", false),
                ("a", 1, "UUID=s", true),
                ("b", 1, "UUID=h", false),
            ],
            true,
        );
        let gone = "nofail,x-systemd.device-timeout=5s";
        for (line, expected) in [
            ("vault\t/dev/xvda3\tnone\tluks", "vault\tPARTUUID=p-03\tnone\tluks".to_owned()),
            (
                "home /dev/xvdb1 /etc/keys/home luks,discard",
                "home UUID=h /etc/keys/home luks,discard".into(),
            ),
            ("old /dev/xvdc1 none luks", format!("old /dev/xvdc1 none luks,{gone}")),
            ("old /dev/xvdc1", format!("old /dev/xvdc1 none {gone}")),
            (
                "cswap /dev/xvda1 /dev/urandom swap,cipher=aes-xts-plain64",
                "cswap PARTUUID=a-01 /dev/urandom swap,cipher=aes-xts-plain64".into(),
            ),
            ("tmp /dev/xvdb1 /dev/urandom tmp", format!("tmp /dev/xvdb1 /dev/urandom tmp,{gone}")),
        ] {
            let (new, _) = entry(line, &devices).unwrap();
            assert_eq!(new, expected);
            assert_eq!(entry(&new, &devices), None, "once is enough");
        }
        for same in ["vault UUID=x none luks", "old /dev/xvdc1 none luks,noauto", "one", ""] {
            assert_eq!(entry(same, &devices), None, "{same}");
        }
        let text = "# <target> <source>\nold /dev/xvdc1 none luks\nvault /dev/xvda3 none luks\n";
        assert_eq!(closed(text, &devices), ["old"]);
    }
}
