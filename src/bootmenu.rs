//! The boot menus of guests: which files exist, which entries they define, and which entry is the
//! default.
//!
//! Each grammar has a file: [`grub2`], [`grub_legacy`], [`extlinux`], [`bls`]. A new grammar is a
//! file with a `parse` function and a line in `find.rs`. All of them charge the budget of the
//! filesystem that they read from ([`Budget`](crate::fs::Budget)).

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
