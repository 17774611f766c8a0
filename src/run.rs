//! Running a guest: a private mount, a QEMU on top of it, and nothing left of either afterwards.
//!
//! Owns the supervision of the two processes, the watching of the serial console, and the verdicts
//! of test boots with their tables, JSON and JUnit. May call `fuse` (to find and end a mount),
//! `qemu` (the command line) and `xen` (what the config says of the machine). What the disk is made
//! of is the business of the `synthdisk mount` that is started as a child.
//!
//! Who ends whom, so that nothing stays behind however the command ends:
//!
//! ```text
//! synthdisk run ──lifeline──▶ keeper ──▶ synthdisk mount --foreground
//!       │                       │ its own session: neither Ctrl-C nor a closed terminal reaches it
//!       └──▶ QEMU               └ when the lifeline breaks, it ends the mount, removes the private
//!            killed with `run`    directory and gives the terminal back
//! ```

pub mod console;
pub mod duration;
mod guest;
mod keeper;
pub mod machine;
mod private;
pub mod report;
mod terminal;

pub use guest::{Expectation, Job, Mode, boot};
pub use keeper::keep;
pub use private::once;
pub use report::{GuestReport, Verdict};
