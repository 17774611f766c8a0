//! Running a guest: a private mount, a QEMU that uses it, and the cleanup of both.
//!
//! Owns the supervision of the two processes, the watching of the serial console, and the verdicts
//! of test boots with their tables, JSON and JUnit; and what a fleet needs: shares, room on the host,
//! results that survive a kill. May use `fuse` (to find and end a mount), `settle` (to move a guest's
//! disks to files), `qemu` (the command line) and `xen` (the machine settings of a config). The content of the disk
//! is determined by the `synthdisk mount` process that is started as a child.
//!
//! Which process ends which, so that nothing is left behind, however the command ends:
//!
//! ```text
//! synthdisk run ──lifeline──▶ keeper ──▶ synthdisk mount --foreground
//!       │                       │ its own session: neither Ctrl-C nor a closed terminal reaches it
//!       └──▶ QEMU               └ when the lifeline breaks, it ends the mount, removes the private
//!            killed with `run`    directory and restores the terminal
//! ```

pub mod admission;
pub mod check;
pub mod console;
pub mod duration;
mod emulator;
mod guest;
mod keeper;
pub mod machine;
mod private;
mod pump;
pub mod report;
pub mod results;
mod screen;
mod settling;
pub mod shard;
mod terminal;

pub use guest::{Expectation, Job, Mode, boot};
pub use keeper::keep;
pub use private::once;
pub use report::{GuestReport, Verdict};
pub use settling::SettleRequest;
