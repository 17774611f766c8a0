//! The boot menus that guests have: which files there are, what entries they hold, which of them is
//! the default.
//!
//! The files are looked for in pygrub's order, and the first that exists counts, so that a guest
//! boots here what it booted under Xen. Behind them comes what pygrub does not know: a directory of
//! Boot Loader Specification entries without a GRUB configuration.

pub mod bls;
pub mod extlinux;
pub mod grub2;
pub mod grub_legacy;
mod grub_script;
pub mod version;

use crate::fs::{FileKind, GuestFs};
use crate::{ErrorKind, Result};

/// Largest boot configuration that is read, in bytes (as pygrub: `FS_READ_MAX`).
pub const MAX_CONFIG: usize = 1 << 20;
/// Most entries that one menu may have; the rest is left out.
pub const MAX_ENTRIES: usize = 1000;
/// Longest command line that is kept, in bytes. Linux takes 2047 on x86.
pub const MAX_CMDLINE: usize = 16 << 10;

/// The grammar of a boot configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// GRUB 2, `grub.cfg`.
    Grub2,
    /// GRUB legacy, `menu.lst` or `grub.conf`.
    GrubLegacy,
    /// extlinux, isolinux and kin.
    Extlinux,
    /// A directory of Boot Loader Specification entries.
    Bls,
}

impl Format {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grub2 => "GRUB 2",
            Self::GrubLegacy => "GRUB legacy",
            Self::Extlinux => "extlinux",
            Self::Bls => "Boot Loader Specification",
        }
    }
}

/// One entry of a boot menu. Paths are as written, without a device in parentheses.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Entry {
    /// The title; for an entry in submenus all of them, `A>B`.
    pub title: String,
    /// The identifier by which `default` may name the entry.
    pub id: Option<String>,
    /// The kernel; empty when the entry boots something else than Linux.
    pub kernel: String,
    /// The initial ramdisks, in the order in which they are to be concatenated.
    pub initrds: Vec<String>,
    /// The kernel command line, without the loader's own quoting.
    pub cmdline: String,
    /// Whether the entry starts a hypervisor, with `kernel` as its dom0.
    pub hypervisor: bool,
}

/// A parsed menu.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Menu {
    /// The entries, submenus flattened, numbered from 0.
    pub entries: Vec<Entry>,
    /// Index of the default entry; may pass the end.
    pub default: usize,
    /// Indices of the entries to try when the default does not load.
    pub fallback: Vec<usize>,
    /// What a user should know about how the default came about.
    pub notes: Vec<String>,
}

/// A menu and where it came from.
#[derive(Clone, Debug)]
pub struct Config {
    /// Path of the file or directory inside the guest.
    pub path: String,
    /// Its grammar.
    pub format: Format,
    /// What it says.
    pub menu: Menu,
}

/// All places where a boot configuration is looked for, in order. Those without `/boot` are for an
/// image of a separate /boot filesystem.
pub const PLACES: [(&str, Format); 15] = [
    ("/boot/grub/grub.cfg", Format::Grub2),
    ("/grub/grub.cfg", Format::Grub2),
    ("/boot/grub2/grub.cfg", Format::Grub2),
    ("/grub2/grub.cfg", Format::Grub2),
    ("/boot/isolinux/isolinux.cfg", Format::Extlinux),
    ("/boot/extlinux/extlinux.conf", Format::Extlinux),
    ("/boot/extlinux.conf", Format::Extlinux),
    ("/extlinux/extlinux.conf", Format::Extlinux),
    ("/extlinux.conf", Format::Extlinux),
    ("/boot/grub/menu.lst", Format::GrubLegacy),
    ("/boot/grub/grub.conf", Format::GrubLegacy),
    ("/grub/menu.lst", Format::GrubLegacy),
    ("/grub/grub.conf", Format::GrubLegacy),
    ("/boot/loader/entries", Format::Bls),
    ("/loader/entries", Format::Bls),
];

/// Finds and parses the guest's boot configuration; `None` if it has none.
///
/// # Errors
/// `TooLarge` for a configuration beyond [`MAX_CONFIG`]; otherwise what reading it gave.
pub fn find(fs: &dyn GuestFs) -> Result<Option<Config>> {
    for (path, format) in PLACES {
        let kind = match fs.stat(path) {
            Ok(stat) => stat.kind,
            Err(e) if absent(e.kind()) => continue,
            Err(e) => return Err(e),
        };
        let menu = if format == Format::Bls {
            if kind != FileKind::Dir {
                continue;
            }
            let entries = bls::read_entries(fs, path, &|_| None)?;
            if entries.is_empty() {
                continue;
            }
            Menu { entries, ..Menu::default() }
        } else {
            if kind != FileKind::File {
                continue;
            }
            let text = read_text(fs, path)?;
            match format {
                Format::Grub2 => grub2::parse(fs, path, &text)?,
                Format::GrubLegacy => grub_legacy::parse(fs, path, &text)?,
                _ => extlinux::parse(fs, path, &text)?,
            }
        };
        return Ok(Some(Config { path: path.to_owned(), format, menu }));
    }
    Ok(None)
}

/// Whether an error means that there is nothing (usable) at a path.
fn absent(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::Invalid)
}

/// A configuration file as text; bytes that are not UTF-8 become replacement characters.
fn read_text(fs: &dyn GuestFs, path: &str) -> Result<String> {
    let data = fs.read(path, MAX_CONFIG)?;
    Ok(String::from_utf8_lossy(&data).into_owned())
}

/// Like [`read_text`], for a file that need not exist.
fn read_optional(fs: &dyn GuestFs, path: &str) -> Result<Option<String>> {
    match read_text(fs, path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if absent(e.kind()) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The directory of a path, without a slash at its end; empty for the root.
fn dir_of(path: &str) -> &str {
    path.rfind('/').map_or("", |at| &path[..at])
}

/// A path without GRUB's `(hd0,0)` or `($root)` in front.
fn strip_device(path: &str) -> &str {
    match path.strip_prefix('(').and_then(|p| p.split_once(')')) {
        Some((_, rest)) => rest,
        None => path,
    }
}

/// Cuts a command line to [`MAX_CMDLINE`] bytes.
fn bounded(mut text: String) -> String {
    if text.len() > MAX_CMDLINE {
        let end = (0..=MAX_CMDLINE).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// Splits off the first word of a line.
fn first_word(line: &str) -> (&str, &str) {
    let line = line.trim();
    line.split_once(char::is_whitespace).map_or((line, ""), |(w, rest)| (w, rest.trim()))
}
