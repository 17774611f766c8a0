//! Planning: images, what is inside the guest, and the user's options become a [`Plan`] with a
//! disk to serve.
//!
//! The only room that knows all others below it. It runs once at mount; afterwards only
//! [`gap`](mod@gap) is asked again, when the guest has changed what boots.

mod adapting;
mod boot_area;
mod build;
mod candidates;
mod disks;
mod extra_initrd;
pub mod gap;
mod guest;
mod guest_files;
mod hardware;
mod identity;
mod options;
mod payload;
mod present;
mod regions;
mod remembered;
mod roots;
mod seed;
mod source;

pub use adapting::Adaptation;
pub use build::{OverlayChoice, Plan, PlannedDisk, disk_file_name, partition_file_name};
pub use gap::PartitionReader;
pub use hardware::Hardware;
pub use options::SourceOptions;
pub use payload::BootSummary;
pub use seed::{CIDATA_FILE, CloudInit};
