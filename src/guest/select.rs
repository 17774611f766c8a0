//! Choosing what boots: the guest's default entry, the entry that the user names, or the newest
//! installed kernel.

mod files;
mod installed;

pub use installed::{Installed, installed};

use self::files::locate;
use crate::bootmenu::{self, Config, MenuEntry, MenuFormat};
use crate::fs::GuestFs;
use crate::{Error, ErrorKind, Result};

/// Which entry the user wants (`--entry`).
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum EntrySelector {
    /// The entry's number, from 0, submenus flattened.
    Index(usize),
    /// Its title, the last part of its title, or its identifier; `A>B` names submenus too.
    Title(String),
}

impl EntrySelector {
    /// A number is an index, everything else a title.
    pub fn parse(text: &str) -> Self {
        match text.trim().parse() {
            Ok(index) => Self::Index(index),
            Err(_) => Self::Title(text.trim().to_owned()),
        }
    }
}

/// A boot menu's entries, for listings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EntrySummary {
    /// Number from 0, as for `--entry`.
    pub index: usize,
    /// Title; `A>B` in submenus.
    pub title: String,
    /// The kernel as the menu names it; empty if the entry does not start Linux.
    pub kernel: String,
    /// Whether it starts a hypervisor with that kernel as dom0.
    pub hypervisor: bool,
}

/// The source of a choice.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BootSource {
    /// An entry of a boot menu.
    Config {
        /// The menu's path inside the guest.
        path: String,
        /// Its grammar.
        format: MenuFormat,
        /// The entry's number, from 0.
        index: usize,
    },
    /// No usable menu; this is the newest kernel.
    NewestKernel,
}

/// What to boot. All paths are absolute, without symlinks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Boot {
    /// Title of the entry, or the kernel's name.
    pub title: String,
    /// The source of the choice.
    pub source: BootSource,
    /// Path of the kernel inside the guest.
    pub kernel: String,
    /// Paths of the initial ramdisks, to be concatenated in this order.
    pub initrds: Vec<String>,
    /// The command line as the guest has it, not yet adapted.
    pub cmdline: String,
    /// All entries of the menu.
    pub entries: Vec<EntrySummary>,
    /// What the user should know about the choice.
    pub notes: Vec<String>,
}

/// Chooses what boots from a filesystem: root, or a separate /boot.
///
/// # Errors
/// `NotFound`, listing the entries, if the requested entry does not exist or its files are missing;
/// `NotFound`, listing what was searched, if there is neither menu nor kernel; otherwise errors
/// from reading the guest.
pub fn choose(fs: &dyn GuestFs, want: Option<&EntrySelector>) -> Result<Boot> {
    let config = bootmenu::find(fs)?;
    match (config, want) {
        (Some(config), Some(want)) => chosen(fs, &config, want),
        (None, Some(_)) => Err(Error::new(
            ErrorKind::NotFound,
            "the guest has no boot menu to choose an entry from; name a kernel with --kernel",
        )),
        (Some(config), None) => match default(fs, &config)? {
            Some(boot) => Ok(boot),
            None => newest(fs, Some(&config)),
        },
        (None, None) => newest(fs, None),
    }
}

fn chosen(fs: &dyn GuestFs, config: &Config, want: &EntrySelector) -> Result<Boot> {
    let entries = &config.menu.entries;
    let index = match want {
        EntrySelector::Index(index) => Some(*index).filter(|i| *i < entries.len()),
        EntrySelector::Title(title) => entries
            .iter()
            .position(|e| e.title == *title)
            .or_else(|| entries.iter().position(|e| e.id.as_deref() == Some(title)))
            .or_else(|| {
                let leaf = |e: &MenuEntry| e.title.rsplit('>').next().map(str::to_owned);
                entries.iter().position(|e| leaf(e).as_deref() == Some(title))
            }),
    };
    let fail = |what: String| {
        let list = list(&config.menu.entries);
        Err(Error::new(ErrorKind::NotFound, format!("{what}; {} has{list}", config.path)))
    };
    let Some(index) = index else {
        return fail(match want {
            EntrySelector::Index(index) => format!("there is no boot entry {index}"),
            EntrySelector::Title(title) => format!("there is no boot entry \"{title}\""),
        });
    };
    let entry = &entries[index];
    if entry.kernel.is_empty() {
        return fail(format!("boot entry {index} starts no Linux kernel"));
    }
    let loaded = load(fs, entry)?;
    match loaded.kernel {
        Some(kernel) if loaded.missing.is_empty() => {
            let mut boot = boot(config, index, kernel, loaded.initrds);
            if entry.hypervisor {
                boot.notes.push(hypervisor_note(entry));
            }
            Ok(boot)
        }
        _ => fail(format!(
            "boot entry {index} names {}, which is missing",
            loaded.missing.join(", ")
        )),
    }
}

/// The default entry or the next best one; `None` if no entry can be loaded.
fn default(fs: &dyn GuestFs, config: &Config) -> Result<Option<Boot>> {
    let menu = &config.menu;
    let count = menu.entries.len();
    let default = if menu.default < count { menu.default } else { 0 };
    let mut order: Vec<usize> = Vec::new();
    // Xen in the guest would need nested virtualisation and a dom0. Use an entry without Xen
    // instead, preferably one with the same kernel.
    if let Some(entry) = menu.entries.get(default).filter(|e| e.hypervisor) {
        let plain = |i: &usize| !menu.entries[*i].hypervisor && !menu.entries[*i].kernel.is_empty();
        order.extend((0..count).filter(plain).find(|i| menu.entries[*i].kernel == entry.kernel));
        order.extend((0..count).filter(plain));
    }
    order.push(default);
    order.extend(menu.fallback.iter().filter(|i| **i < count));
    order.extend((default..count).chain(0..default));
    let mut seen = vec![false; count];
    order.retain(|i| !seen.get_mut(*i).is_none_or(|s| std::mem::replace(s, true)));

    let mut notes = menu.notes.clone();
    let mut incomplete: Option<(usize, String, Loaded)> = None;
    for index in order {
        let entry = &menu.entries[index];
        if entry.kernel.is_empty() {
            if index == default {
                notes.push(format!("the default entry \"{}\" starts no Linux kernel", entry.title));
            }
            continue;
        }
        let loaded = load(fs, entry)?;
        if !loaded.missing.is_empty() {
            if index == default {
                notes.push(format!(
                    "the default entry \"{}\" names {}, which is missing",
                    entry.title,
                    loaded.missing.join(", ")
                ));
            }
            if let (None, Some(kernel)) = (&incomplete, &loaded.kernel) {
                incomplete = Some((index, kernel.clone(), loaded));
            }
            continue;
        }
        let Some(kernel) = loaded.kernel else { continue };
        return Ok(Some(finish(config, index, kernel, loaded.initrds, notes)));
    }
    Ok(incomplete.map(|(index, kernel, loaded)| {
        notes.push(format!("booting without {}", loaded.missing.join(", ")));
        finish(config, index, kernel, loaded.initrds, notes)
    }))
}

fn finish(
    config: &Config,
    index: usize,
    kernel: String,
    initrds: Vec<String>,
    notes: Vec<String>,
) -> Boot {
    let mut boot = boot(config, index, kernel, initrds);
    boot.notes = notes;
    let default = config.menu.entries.get(config.menu.default);
    let entry = &config.menu.entries[index];
    if entry.hypervisor {
        boot.notes.push(hypervisor_note(entry));
    } else if index != config.menu.default {
        let why = if default.is_some_and(|d| d.hypervisor) {
            " instead of the Xen hypervisor"
        } else {
            ""
        };
        boot.notes.push(format!("taking entry {index}, \"{}\"{why}", entry.title));
    }
    boot
}

fn hypervisor_note(entry: &MenuEntry) -> String {
    format!("\"{}\" starts a hypervisor; its kernel is booted without it", entry.title)
}

fn boot(config: &Config, index: usize, kernel: String, initrds: Vec<String>) -> Boot {
    let entry = &config.menu.entries[index];
    Boot {
        title: entry.title.clone(),
        source: BootSource::Config { path: config.path.clone(), format: config.format, index },
        kernel,
        initrds,
        cmdline: entry.cmdline.clone(),
        entries: summaries(&config.menu.entries),
        notes: Vec::new(),
    }
}

fn summaries(entries: &[MenuEntry]) -> Vec<EntrySummary> {
    let summary = |(index, e): (usize, &MenuEntry)| EntrySummary {
        index,
        title: e.title.clone(),
        kernel: e.kernel.clone(),
        hypervisor: e.hypervisor,
    };
    entries.iter().enumerate().map(summary).collect()
}

fn list(entries: &[MenuEntry]) -> String {
    const SHOWN: usize = 30;
    if entries.is_empty() {
        return " no entries".to_owned();
    }
    let mut out = String::new();
    for (index, entry) in entries.iter().enumerate().take(SHOWN) {
        out.push_str(&format!("\n  {index}  {}", entry.title.escape_debug()));
    }
    if entries.len() > SHOWN {
        out.push_str(&format!("\n  and {} more", entries.len() - SHOWN));
    }
    out
}

/// The files of an entry, located in the guest.
struct Loaded {
    kernel: Option<String>,
    initrds: Vec<String>,
    missing: Vec<String>,
}

/// Maximum number of initrds in one entry; real menus have fewer.
const MAX_INITRDS: usize = 16;

fn load(fs: &dyn GuestFs, entry: &MenuEntry) -> Result<Loaded> {
    let mut loaded =
        Loaded { kernel: locate(fs, &entry.kernel)?, initrds: vec![], missing: vec![] };
    if loaded.kernel.is_none() {
        loaded.missing.push(entry.kernel.clone());
        return Ok(loaded);
    }
    for path in entry.initrds.iter().take(MAX_INITRDS) {
        match locate(fs, path)? {
            Some(found) => loaded.initrds.push(found),
            None => loaded.missing.push(path.clone()),
        }
    }
    Ok(loaded)
}

/// The newest installed kernel.
fn newest(fs: &dyn GuestFs, config: Option<&Config>) -> Result<Boot> {
    if let Some(kernel) = installed(fs, 1)?.into_iter().next() {
        let mut notes = match config {
            Some(config) => vec![format!("{} has no entry that can be booted", config.path)],
            None => vec!["the guest has no boot menu".to_owned()],
        };
        notes.push(format!("taking the newest kernel, {}", kernel.path));
        return Ok(Boot {
            title: kernel.name,
            source: BootSource::NewestKernel,
            kernel: kernel.path,
            initrds: kernel.initrd.into_iter().collect(),
            cmdline: String::new(),
            entries: config.map(|c| summaries(&c.menu.entries)).unwrap_or_default(),
            notes,
        });
    }
    let menu = match config {
        Some(config) => format!("{} names none that exists, and ", config.path),
        None => "no boot menu (grub.cfg, menu.lst, extlinux.conf, loader/entries) and ".into(),
    };
    Err(Error::new(
        ErrorKind::NotFound,
        format!(
            "no kernel found in the guest: {menu}no vmlinuz*, bzImage* or kernel-* in /boot or /; \
             give one with --kernel, or use --bootloader none"
        ),
    ))
}

#[cfg(test)]
mod tests;
