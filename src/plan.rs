//! Planning: turns images, their contents and the user's options into a [`Plan`] with disks to
//! serve.
//!
//! Planning runs once, in four stages: `survey` opens everything, `lay_out` decides what is
//! placed where, `boot_choice` chooses what boots, and `assemble` builds the disks. Afterwards
//! only `guest_planner` runs again, when the guest has changed what boots. The types that the
//! stages share are in `types`.

mod adapting;
mod assemble;
mod boot_area;
mod boot_choice;
mod build;
mod candidates;
mod clone;
mod cloud_init;
mod created_file;
mod current_uuid;
mod disk_builder;
mod disk_source;
pub mod examine;
mod guest_kernel;
mod guest_planner;
mod guest_spec;
mod guest_tree;
mod hardware;
mod lay_out;
mod menu_rules;
mod options;
mod overlay_metadata;
mod payload;
mod planned_disk;
mod planned_from;
mod planned_volume;
mod raid;
mod regions;
mod replaced_loader;
mod root_resolver;
mod scratch_overlay;
mod source;
mod survey;
mod types;
mod unique_names;
mod volumes;
mod whole_disk;

pub use adapting::Adaptation;
pub use assemble::{Plan, RootPlace};
pub use cloud_init::CIDATA_FILE;
pub use guest_kernel::GuestKernel;
pub use hardware::Hardware;
pub use options::{CloudInitFiles, SourceOptions};
pub use planned_disk::{PartitionReader, PlannedDisk, disk_file_name, partition_file_name};
pub use planned_volume::PlannedVolume;
pub use types::{BootSummary, DiskDriver, OverlayChoice};
