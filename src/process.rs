//! Child processes, signals, and the mounts of this program.
//!
//! The lowest room that starts or ends processes and mounts. It does not depend on disks or guests:
//! `run`, `finalize`, `fuse` and the editors of guest filesystems all use it for that.

mod child;
mod inherit;
mod mounts;
mod namespace;
mod other;
mod private_dir;
mod signals;
mod stray;
mod sweep;
mod tool;
mod unmount;
mod wait;

pub use child::{bound_to_us, bound_to_us_as_other, end, exec, ourselves, own_file, send};
pub use inherit::Inherited;
pub use mounts::{MountEntry, mount_table};
pub use namespace::enter_private_mounts;
pub use other::OtherProcess;
pub use private_dir::{make_private_dir, private_dir_name};
pub use signals::{Stop, ending_signals, hold_ending_signals};
pub use stray::close_inherited_files;
pub use sweep::{NamedInode, Sweeper, Swept, sweep};
pub use tool::{clean_environment, find_program, find_tool, is_program};
pub use unmount::{Unmount, unmount};
pub use wait::poll_until;
