//! Runs the stages of planning in order.

use super::assemble::{Plan, assemble};
use super::boot_choice::choose_boot;
use super::lay_out::lay_out;
use super::options::SourceOptions;
use super::survey::Survey;
use super::types::OverlayChoice;
use crate::Result;

impl Plan {
    /// Plans the disks that `options` describe; `overlays` determines where writes go.
    ///
    /// # Errors
    /// A sentence for the user; no files are left on disk.
    pub fn build(options: &SourceOptions, overlays: &OverlayChoice) -> Result<Self> {
        let mut survey = Survey::take(options, overlays)?;
        let preview = lay_out(&mut survey, options)?;
        let boot = choose_boot(&mut survey, preview, options)?;
        assemble(survey, boot, options, overlays)
    }
}
