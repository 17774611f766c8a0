//! What the guest's old device names mean on the new disk.

use crate::guest::device::MachineDevice;

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
        // Without /dev/ it is a word that only looks like a device.
        let device = MachineDevice::parse(name).filter(|_| name.starts_with("/dev/"));
        let Some(device) = device else { return Meaning::Other };
        let same = |d: &&Device| d.disk == device.disk && d.number == device.number();
        let here = self.list.iter().filter(|_| self.same_names).find(same);
        here.map_or(Meaning::Gone, Meaning::Here)
    }
}
