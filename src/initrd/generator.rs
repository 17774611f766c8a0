//! The program that generated an initrd, detected by files that only it adds.

use std::collections::BTreeMap;

use serde::Serialize;

use super::entry::InitrdEntry;

/// The program that generated an initrd.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Generator {
    /// Debian's and Ubuntu's initramfs-tools.
    InitramfsTools,
    /// dracut: RHEL, Fedora, SUSE, Debian 14.
    Dracut,
    /// Arch Linux's mkinitcpio.
    Mkinitcpio,
    /// Alpine's mkinitfs.
    Mkinitfs,
    /// Red Hat's mkinitrd up to RHEL 5, with nash as its shell.
    Mkinitrd,
    /// booster.
    Booster,
    /// tiny-initramfs.
    TinyInitramfs,
    /// Another program.
    Other,
}

/// tiny-initramfs adds one program, three directories and a few modules.
const TINY: usize = 40;

impl Generator {
    /// Its human-readable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::InitramfsTools => "initramfs-tools",
            Self::Dracut => "dracut",
            Self::Mkinitcpio => "mkinitcpio",
            Self::Mkinitfs => "mkinitfs",
            Self::Mkinitrd => "mkinitrd",
            Self::Booster => "booster",
            Self::TinyInitramfs => "tiny-initramfs",
            Self::Other => "something else",
        }
    }

    /// Whether a path may tell the generator of an initrd.
    pub(super) fn is_marker(path: &str) -> bool {
        let exact = [
            "conf/initramfs.conf",
            "scripts/init-top/ORDER",
            "init_functions",
            "buildconfig",
            "hooks",
            "sbin/nash",
            "bin/nash",
            "etc/booster.init.yaml",
            "sbin/nlplug-findfs",
            "newroot",
        ];
        exact.contains(&path) || path.contains("dracut")
    }

    pub(super) fn of(entries: &BTreeMap<String, InitrdEntry>) -> Self {
        let has = |paths: &[&str]| paths.iter().any(|p| entries.contains_key(*p));
        let below = |prefix: &str| {
            let from = prefix.to_owned();
            entries.range(from..).next().is_some_and(|(path, _)| path.starts_with(prefix))
        };
        if has(&["conf/initramfs.conf", "conf/arch.conf", "scripts/init-top/ORDER"]) {
            Self::InitramfsTools
        } else if below("usr/lib/dracut/") || below("lib/dracut/") || below("dracut-") {
            Self::Dracut
        } else if has(&["init_functions"]) && has(&["config", "buildconfig", "hooks", "VERSION"]) {
            Self::Mkinitcpio
        } else if has(&["sbin/nash", "bin/nash"]) {
            Self::Mkinitrd
        } else if has(&["etc/booster.init.yaml"]) {
            Self::Booster
        } else if has(&["etc/mkinitfs", "newroot"]) && has(&["sbin/nlplug-findfs"]) {
            Self::Mkinitfs
        } else if entries.len() < TINY && has(&["init"]) && has(&["target"]) && has(&["dev"]) {
            Self::TinyInitramfs
        } else {
            Self::Other
        }
    }
}
