//! A parsed boot menu, independent of its grammar.

/// Maximum number of entries in a menu; further ones are left out.
pub const MAX_ENTRIES: usize = 1000;

/// The grammar of a boot menu.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MenuFormat {
    /// GRUB 2, `grub.cfg`.
    Grub2,
    /// GRUB legacy, `menu.lst` or `grub.conf`.
    GrubLegacy,
    /// extlinux, isolinux and syslinux.
    Extlinux,
    /// A directory of Boot Loader Specification entries.
    Bls,
}

impl MenuFormat {
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
pub struct MenuEntry {
    /// The title; for an entry in submenus, all titles from the outermost on, `A>B`.
    pub title: String,
    /// The identifier by which `default` may name the entry.
    pub id: Option<String>,
    /// The kernel; empty if the entry does not start Linux.
    pub kernel: String,
    /// The initial ramdisks, in the order in which they are concatenated.
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
    pub entries: Vec<MenuEntry>,
    /// Index of the default entry; may be past the end.
    pub default: usize,
    /// Indices of the entries to try when the default does not load.
    pub fallback: Vec<usize>,
    /// What the user should know about how the default was determined.
    pub notes: Vec<String>,
}

/// A menu and where it came from.
#[derive(Clone, Debug)]
pub struct Config {
    /// Path of the file or directory inside the guest.
    pub path: String,
    /// Its grammar.
    pub format: MenuFormat,
    /// The parsed menu.
    pub menu: Menu,
}
