//! Drivers for an initrd that has none for the disk.

use crate::Result;
use crate::adapt::devices::Devices;
use crate::adapt::step::Step;
use crate::edit::Draft;

/// Name of the step.
pub const DRIVERS: &str = "initrd";

pub(super) const STEP: Step = Step {
    name: DRIVERS,
    what: "drivers that the initrd lacks, from the guest's own `/lib/modules`, in another initrd",
    draft,
};

/// The work is done in the boot gap; no file of the guest changes.
fn draft(_: &mut Draft, _: &Devices) -> Result<()> {
    Ok(())
}
