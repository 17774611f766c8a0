//! What the guest's old device names mean on the new disk.

/// A partition of the new disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    /// Letters of its disk under Xen: `a` for `xvda`.
    pub disk: String,
    /// Its number there.
    pub number: u32,
    /// What names it for good: `UUID=…` or `PARTUUID=…`.
    pub spec: String,
    /// Whether it is swap.
    pub swap: bool,
}

/// All partitions.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    /// First the root filesystem.
    list: Vec<Device>,
    /// Whether letters and numbers are those that the guest had under Xen.
    same_names: bool,
}

/// What a name in a configuration file means.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Meaning<'a> {
    /// A partition of the new disk.
    Here(&'a Device),
    /// A device of the old machine that the new one does not have.
    Gone,
    /// Something else, which means the same on every machine.
    Other,
}

impl Devices {
    /// Partitions, the root filesystem first. `same_names` says that letters and numbers are those
    /// that the guest had under Xen.
    pub fn new(list: Vec<Device>, same_names: bool) -> Self {
        Self { list, same_names }
    }

    #[cfg(test)]
    pub(super) fn of(list: &[(&str, u32, &str, bool)], same_names: bool) -> Self {
        let device = |&(disk, number, spec, swap): &(&str, u32, &str, bool)| Device {
            disk: disk.into(),
            number,
            spec: spec.into(),
            swap,
        };
        Self::new(list.iter().map(device).collect(), same_names)
    }

    /// The root filesystem.
    pub(super) fn root(&self) -> Option<&Device> {
        self.list.first().filter(|d| !d.swap)
    }

    /// The swap areas.
    pub(super) fn swaps(&self) -> impl Iterator<Item = &Device> {
        self.list.iter().filter(|d| d.swap)
    }

    /// What the device `name` means.
    pub(super) fn meaning(&self, name: &str) -> Meaning<'_> {
        let Some((disk, number)) = parse(name) else { return Meaning::Other };
        let same = |d: &&Device| d.disk == disk && d.number == number;
        let here = self.list.iter().filter(|_| self.same_names).find(same);
        here.map_or(Meaning::Gone, Meaning::Here)
    }
}

/// Disk letters and partition number of a device name that depends on the machine. A disk without
/// a number was a bare filesystem and is partition 1 now.
fn parse(name: &str) -> Option<(&str, u32)> {
    let device = name.strip_prefix("/dev/")?;
    let rest = ["xvd", "sd", "hd", "vd"].iter().find_map(|p| device.strip_prefix(p))?;
    let letters = rest.trim_end_matches(|c: char| c.is_ascii_digit());
    if letters.is_empty() || !letters.bytes().all(|b| b.is_ascii_lowercase()) {
        return None;
    }
    match &rest[letters.len()..] {
        "" => Some((letters, 1)),
        digits => Some((letters, digits.parse().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(parse("/dev/xvda2"), Some(("a", 2)));
        assert_eq!(parse("/dev/sdb"), Some(("b", 1)));
        assert_eq!(parse("/dev/hdaa12"), Some(("aa", 12)));
        for other in ["proc", "UUID=x", "/dev/mapper/x", "/dev/xvd1", "/dev/sdA1", "/dev/disk/x"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
