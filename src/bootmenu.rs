//! The boot menus of guests: which files there are, which entries they hold, and which of those is
//! the default.
//!
//! Each grammar has a file: [`grub2`], [`grub_legacy`], [`extlinux`], [`bls`]. A new one is a file
//! with a `parse` and a line in `find.rs`. All of them charge the budget of the filesystem that
//! they read from ([`Budget`](crate::fs::Budget)).

pub mod bls;
pub mod extlinux;
mod find;
pub mod grub2;
pub mod grub_legacy;
mod grub_script;
mod menu;
mod text;
pub mod version;

pub use find::{PLACES, find};
pub use menu::{Config, MAX_ENTRIES, Menu, MenuEntry, MenuFormat};
pub use text::{MAX_CMDLINE, MAX_CONFIG};
