//! The table of steps. A new step is a file in `steps/` and a line here.

mod agents;
mod console;
mod crypttab;
mod fields;
mod fstab;
mod growroot;
mod grub_defaults;
pub(super) mod initrd;
mod inittab;
mod lines;
mod modprobe;
mod mount_units;
pub(super) mod network;
mod openrc;
pub(super) mod resume;
mod securetty;
mod sysctl;
mod systemd_console;
#[cfg(test)]
pub(super) mod test;
mod upstart;

use super::step::Step;

/// All steps, in the order in which they run.
pub const STEPS: &[Step] = &[
    fstab::STEP,
    crypttab::STEP,
    mount_units::STEP,
    resume::STEP,
    grub_defaults::STEP,
    inittab::STEP,
    upstart::STEP,
    systemd_console::STEP,
    openrc::STEP,
    securetty::STEP,
    network::STEP,
    modprobe::STEP,
    sysctl::STEP,
    agents::STEP,
    growroot::STEP,
    initrd::STEP,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The table in `docs/adaptation.md` matches this one.
    #[test]
    fn documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/adaptation.md");
        let page = std::fs::read_to_string(path).unwrap();
        let rows: Vec<&str> = page.lines().filter(|l| l.starts_with("| `")).collect();
        let expected: Vec<String> =
            STEPS.iter().map(|s| format!("| `{}` | {} |", s.name, s.what)).collect();
        assert_eq!(rows, expected, "docs/adaptation.md prints the table of src/adapt/steps.rs");
    }
}
