//! Confinement of processes that handle bytes from guests.
//!
//! A [`Profile`] says what a process may still do, [`Mode`] what happens if the kernel does not
//! offer all of it, and [`Confined`] what is in force. Each layer is a file: `account` (user ID,
//! capabilities), `empty_root` (no files), `landlock` (no files, no network, no signals), `calls`
//! and `filter` (system calls), `limits` (memory, CPU, core files). docs/sandbox.md describes them
//! for users.
//!
//! `tool` confines programs of the host, which get their files through a `tool_dir`.
//!
//! A confined process cannot start programs. `keeper_link` lets it ask the process that keeps it,
//! and `parser` is what it may ask for.

mod account;
mod apply;
mod calls;
mod confined;
mod empty_root;
mod filter;
mod keeper_link;
mod landlock;
mod limits;
mod parser;
mod profile;
mod tool;
mod tool_dir;

pub use account::{Account, unprivileged};
pub use apply::{Confinement, confine};
pub use confined::{Confined, Layer, Missing};
pub use keeper_link::{receive_descriptor, send_descriptor};
pub use parser::{
    START_PARSER, ask_keeper_for_parsers, parser_command, start_parser, use_first_parser,
};
pub use profile::{Limits, Mode, Profile};
pub use tool::{RunAs, ToolSandbox, ToolThread};
pub use tool_dir::ToolDir;
