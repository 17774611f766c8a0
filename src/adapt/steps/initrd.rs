//! Drivers for an initrd that has none for the disk.

use super::Step;
use crate::Result;
use crate::adapt::Devices;
use crate::edit::Draft;

/// Name of the step.
pub const DRIVERS: &str = "initrd";

pub(super) const STEP: Step = Step {
    name: DRIVERS,
    what: "drivers that the initrd lacks, from the guest's own `/lib/modules`, in another initrd",
    draft,
};

/// What there is to do is done in the boot gap, and no file of the guest changes.
fn draft(_: &mut Draft, _: &Devices) -> Result<()> {
    Ok(())
}
