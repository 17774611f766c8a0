//! The table of steps. A new one is a file below `steps/` and a line here.

pub(super) mod fstab;
pub(super) mod initrd;
pub(super) mod inittab;
pub(super) mod network;

use super::draft::Draft;
use crate::Result;

/// One kind of edit. It drafts nothing for what is as it should be, so it drafts nothing for what
/// it has already edited.
pub struct Step {
    /// Its name for `--adapt`.
    pub name: &'static str,
    /// What it does, in a line; printed in `docs/adaptation.md`.
    pub what: &'static str,
    pub(super) draft: fn(&mut Draft) -> Result<()>,
}

/// All steps, in the order in which they are taken.
pub const STEPS: &[Step] = &[fstab::STEP, inittab::STEP, network::STEP, initrd::STEP];

#[cfg(test)]
mod tests {
    use super::*;

    /// The page's table is this one.
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
