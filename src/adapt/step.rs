//! What a step of the adaptation is.

use super::devices::Devices;
use crate::Result;
use crate::edit::Draft;

/// One kind of edit. It drafts nothing for what is as it should be, so it drafts nothing for what
/// it has already edited.
pub struct Step {
    /// Its name for `--adapt`.
    pub name: &'static str,
    /// What it does, in a line; printed in `docs/adaptation.md`.
    pub what: &'static str,
    pub(super) draft: fn(&mut Draft, &Devices) -> Result<()>,
}
