//! Definition of an adaptation step.

use super::devices::Devices;
use crate::Result;
use crate::edit::Draft;

/// One kind of edit. A step drafts nothing for what is already correct, and therefore nothing for
/// what it has already edited.
pub struct Step {
    /// Its name for `--adapt`.
    pub name: &'static str,
    /// What it does, in one line; printed in `docs/adaptation.md`.
    pub what: &'static str,
    pub(super) draft: fn(&mut Draft, &Devices) -> Result<()>,
}
