//! Resolves partition names: from those that a Xen guest uses to those that are valid on KVM.

use super::types::PartitionNames;
use super::unique_names::{disk_index, early_spec, has_own_uuid, kernel_device, spec};
use crate::adapt::{LegacySettings, NETWORK, RESUME, Selection};
use crate::device_name::DeviceName;
use crate::guest::cmdline::{CmdlineContext, adapt, without};

/// Determines which partition a name refers to, and adapts command lines accordingly.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct RootResolver {
    pub(super) partitions: Vec<PartitionNames>,
    /// The root filesystem that the user named, as an index into the partitions.
    pub(super) root_partition: Option<usize>,
    pub(super) append: Option<String>,
    pub(super) replace: Option<String>,
    /// The requested adaptations.
    pub(super) selection: Selection,
    /// Whether disk letters and partition numbers are the same as under Xen.
    pub(super) same_names: bool,
    /// Whether `partitions` contains every filesystem and swap area on the disks.
    pub(super) complete: bool,
    /// MAC addresses of the network cards, as far as known.
    pub(super) macs: Vec<String>,
    /// The config's command line, used when the guest's own does not name a root.
    pub(super) root_hint: Option<String>,
    /// The partition with the boot menu, as an index into the partitions: of several with one name,
    /// the menu refers to this one, or to one on its disk.
    #[serde(default)]
    pub(super) menu: Option<usize>,
    /// What finds the root filesystem.
    #[serde(default)]
    pub(super) finder: Finder,
}

/// What finds the root filesystem by its name, if there is an initrd.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) enum Finder {
    /// The initrd, which knows UUIDs.
    #[default]
    Initrd,
    /// The initrd, which knows devices only.
    SimpleInitrd,
    /// The kernel: the initrd has no `/init`.
    Kernel,
}

impl RootResolver {
    /// The command line for KVM and a list of the changes. `likely_root`, an index into the
    /// partitions, is the root filesystem if no command line names it.
    pub(super) fn adapt(
        &self,
        cmdline: &str,
        has_initrd: bool,
        likely_root: Option<usize>,
    ) -> (String, Vec<String>) {
        let named = |words: &str| self.root_of(words);
        let stripped = self.root_partition.map(|_| without(cmdline, "root"));
        let cmdline = stripped.as_deref().unwrap_or(cmdline);
        let root = self.root_partition.and_then(|i| self.partitions.get(i));
        let root = root
            .or_else(|| named(cmdline))
            .or_else(|| self.root_hint.as_deref().and_then(named))
            .or_else(|| likely_root.and_then(|i| self.partitions.get(i)))
            .or_else(|| self.partitions.iter().find(|p| p.kind.may_hold_root()));
        // A partition without a known UUID may hold filesystems whose UUIDs were not read.
        let all = self.partitions.iter().filter(|p| !p.kind.holds_volumes());
        let uuids: Option<Vec<String>> = all.map(|p| p.uuid.clone()).collect();
        let adapted = adapt(
            cmdline,
            &CmdlineContext {
                has_initrd: has_initrd && self.finder == Finder::Initrd,
                root: root.map(|p| self.root_spec(p, has_initrd)).unwrap_or_default(),
                stale_names: root.map(|p| self.stale_names(p)).unwrap_or_default(),
                root_partuuid: root.map(|p| p.partuuid.clone()).unwrap_or_default(),
                swap: self.swap_spec(),
                stale_swaps: self.stale_swaps(),
                all_uuids: uuids.filter(|_| self.complete),
                append: self.append.clone(),
                replace: self.replace.clone(),
            },
        );
        (adapted.cmdline, adapted.changes)
    }

    /// The same, with something else to find the root filesystem.
    pub(super) fn found_by(&self, finder: Finder) -> Self {
        Self { finder, ..self.clone() }
    }

    /// The name of `p` as the root filesystem, unlike that of any other partition. An initrd
    /// activates a logical volume by its device.
    pub(super) fn root_spec(&self, p: &PartitionNames, has_initrd: bool) -> String {
        let all = &self.partitions;
        match (&p.volume, self.finder) {
            (Some(volume), _) => volume.device(),
            (None, Finder::Initrd) if has_initrd => spec(all, p),
            (None, Finder::SimpleInitrd) if has_initrd => {
                kernel_device(all, p).unwrap_or_else(|| spec(all, p))
            }
            (None, _) => early_spec(all, p),
        }
    }

    /// The index of the disk of partition `index`, and its number; `None` for a logical volume.
    pub(super) fn place(&self, index: usize) -> Option<(u8, u32)> {
        let p = self.partitions.get(index)?;
        Some((disk_index(&self.partitions, p)?, p.number))
    }

    /// The name of the first swap area.
    pub(super) fn swap_spec(&self) -> Option<String> {
        let swap = self.partitions.iter().find(|p| p.kind.is_swap() && p.uuid.is_some())?;
        Some(spec(&self.partitions, swap))
    }

    /// Names by which the guest may call its root filesystem `p`, and which do not, or not only,
    /// mean it: earlier UUIDs, and those that another partition has.
    fn stale_names(&self, p: &PartitionNames) -> Vec<String> {
        let mut out: Vec<String> = p.former.iter().map(|uuid| format!("UUID={uuid}")).collect();
        let all = &self.partitions;
        out.extend(p.uuid.iter().filter(|_| !has_own_uuid(all, p)).map(|u| format!("UUID={u}")));
        let label = p.label.iter().filter(|_| self.has_shared_label(p));
        out.extend(label.map(|label| format!("LABEL={label}")));
        let partuuid = format!("PARTUUID={}", p.partuuid);
        if p.volume.is_none() && self.find_all(&partuuid).len() > 1 {
            out.push(partuuid);
        }
        out
    }

    /// Names of swap areas that another partition has too.
    fn stale_swaps(&self) -> Vec<String> {
        let swaps = self.partitions.iter().filter(|p| p.kind.is_swap());
        let shared = swaps.filter(|p| !has_own_uuid(&self.partitions, p));
        shared.filter_map(|p| Some(format!("UUID={}", p.uuid.as_ref()?))).collect()
    }

    fn has_shared_label(&self, p: &PartitionNames) -> bool {
        p.label.as_ref().is_some_and(|label| self.find_all(&format!("LABEL={label}")).len() > 1)
    }

    /// Whether another filesystem has the UUID or label of `p`.
    pub(super) fn is_copied(&self, p: &PartitionNames) -> bool {
        p.uuid.is_some() && !has_own_uuid(&self.partitions, p) || self.has_shared_label(p)
    }

    /// The UUIDs and labels that several partitions have, and the names of the ones that are meant.
    pub(super) fn shared_roots(&self, has_initrd: bool) -> Vec<(String, String)> {
        let mut out: Vec<(String, String)> = Vec::new();
        for p in self.partitions.iter().filter(|p| p.kind.may_hold_root()) {
            for name in self.stale_names(p) {
                let is_new = !out.iter().any(|(old, _)| *old == name);
                let is_shared = self.find_all(&name).len() > 1;
                if let Some(meant) = self.find(&name).filter(|_| is_new && is_shared) {
                    out.push((name, self.root_spec(meant, has_initrd)));
                }
            }
        }
        out
    }

    /// The partition that the last `root=` among `words` refers to.
    pub(super) fn root_of(&self, words: &str) -> Option<&PartitionNames> {
        // Without a config the numbers are ours, and the guest's /dev/xvda2 may be our swap
        // partition.
        self.find(&last_value(words, "root")?).filter(|p| p.kind.may_hold_root())
    }

    /// Like [`Self::root_of`], as an index into the partitions.
    pub(super) fn root_index(&self, words: &str) -> Option<usize> {
        let root = self.root_of(words)?;
        self.partitions.iter().position(|p| std::ptr::eq(p, root))
    }

    /// The partition that fstab or a command line calls `name`, as an index into the partitions.
    pub(super) fn index_of(&self, name: &str) -> Option<usize> {
        let found = self.find(name)?;
        self.partitions.iter().position(|p| std::ptr::eq(p, found))
    }

    /// Whether it is known which partition is the root filesystem, or that it is none of them, when
    /// the guest boots with `cmdline`.
    pub(super) fn knows_root(&self, cmdline: &str) -> bool {
        let named = |words: &str| {
            let name = last_value(words, "root")?;
            let other = !name.is_empty() && DeviceName::parse(&name).is_none();
            Some(other || self.root_of(words).is_some())
        };
        let told = self.root_partition.is_some() || self.replace.is_some();
        let hint = || self.root_hint.as_deref().and_then(named);
        told || named(cmdline) == Some(true) || hint() == Some(true)
    }

    /// `cmdline` adjusted to the guest's legacy settings, and the reasons.
    pub(super) fn with_legacy_settings(
        &self,
        cmdline: String,
        settings: &LegacySettings,
        has_initrd: bool,
    ) -> (String, Vec<String>) {
        let (added, whys): (Vec<_>, Vec<_>) =
            self.legacy_parameters(&cmdline, settings, has_initrd).into_iter().unzip();
        if added.is_empty() {
            return (cmdline, whys);
        }
        let added = added.join(" ");
        // The words after a lone -- belong to init.
        let cmdline = match cmdline.split_once(" -- ") {
            Some((kernel, init)) => format!("{kernel} {added} -- {init}"),
            None => format!("{cmdline} {added}"),
        };
        (cmdline, whys)
    }

    /// The parameters that the guest's legacy settings require, unless `cmdline` has them, with the
    /// reasons.
    pub(super) fn legacy_parameters(
        &self,
        cmdline: &str,
        settings: &LegacySettings,
        has_initrd: bool,
    ) -> Vec<(String, String)> {
        let said = |key: &str| cmdline.split_ascii_whitespace().any(|w| w.starts_with(key));
        let mut added = Vec::new();
        if self.replace.is_some() {
            return added;
        }
        if settings.old_interface_names && self.selection.has(NETWORK) && !said("net.ifnames=") {
            let why = "the guest's network configuration names eth0 or enX0";
            added.push(("net.ifnames=0".to_owned(), format!("net.ifnames=0 added: {why}")));
        }
        let resumes = said("resume=") || said("noresume");
        if let Some(device) = settings.resume_device.as_ref().filter(|_| has_initrd && !resumes) {
            if self.selection.has(RESUME) {
                let word = match self.swap_spec() {
                    Some(swap) => format!("resume={swap}"),
                    None => "noresume".to_owned(),
                };
                let why = format!("{word} added: the guest's initrd may wait for {device}");
                added.push((word, why));
            }
        }
        added
    }

    /// The partition that `name` refers to: a device under Xen or KVM, `UUID=` or `LABEL=`. Of
    /// several, it is the one with the boot menu, else the one that the config names, else one on
    /// the menu's disk, else the first.
    fn find(&self, name: &str) -> Option<&PartitionNames> {
        let found = self.find_all(name);
        let is = |p: &PartitionNames, other: &PartitionNames| std::ptr::eq(p, other);
        let menu = self.menu.and_then(|i| self.partitions.get(i));
        let with_menu = || found.iter().find(|p| menu.is_some_and(|menu| is(p, menu)));
        let hinted = || {
            let hint = last_value(self.root_hint.as_deref()?, "root")?;
            let device = self.device(&hint)?;
            found.iter().find(|p| is(p, device))
        };
        let beside = || found.iter().find(|p| menu.is_some_and(|menu| menu.disk == p.disk));
        match found.as_slice() {
            [] => None,
            [only] => Some(only),
            [first, ..] => {
                Some(with_menu().or_else(hinted).or_else(beside).copied().unwrap_or(first))
            }
        }
    }

    /// The partition with the device name `name`.
    fn device(&self, name: &str) -> Option<&PartitionNames> {
        let device = DeviceName::parse(name)?;
        self.partitions.iter().find(|p| p.disk == device.letters() && p.number == device.number())
    }

    /// All partitions that `name` refers to.
    fn find_all(&self, name: &str) -> Vec<&PartitionNames> {
        let all = || self.partitions.iter();
        let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b.trim_matches('"'));
        if let Some(uuid) =
            name.strip_prefix("UUID=").or_else(|| name.strip_prefix("/dev/disk/by-uuid/"))
        {
            let has = |p: &&PartitionNames| p.uuid.as_ref().is_some_and(|own| same(own, uuid));
            let had = |p: &&PartitionNames| p.former.iter().any(|former| same(former, uuid));
            return all().filter(|p| has(p) || had(p)).collect();
        }
        if let Some(label) =
            name.strip_prefix("LABEL=").or_else(|| name.strip_prefix("/dev/disk/by-label/"))
        {
            let has = |p: &&PartitionNames| p.label.as_ref().is_some_and(|own| same(own, label));
            return all().filter(has).collect();
        }
        if let Some(id) =
            name.strip_prefix("PARTUUID=").or_else(|| name.strip_prefix("/dev/disk/by-partuuid/"))
        {
            return all().filter(|p| p.volume.is_none() && same(&p.partuuid, id)).collect();
        }
        let name = name.trim_matches('"');
        let is_called = |p: &&PartitionNames| p.volume.as_ref().is_some_and(|v| v.is_called(name));
        if let Some(volume) = all().find(is_called) {
            return vec![volume];
        }
        if let Some(device) = self.device(name) {
            return vec![device];
        }
        all().filter(|p| p.volume.is_none() && spec(&self.partitions, p) == name).collect()
    }
}

/// The letters of the disk that the last `root=` among `words` names.
pub(super) fn root_disk(words: &str) -> Option<String> {
    Some(DeviceName::parse(&last_value(words, "root")?)?.letters())
}

/// The value of the last `key=` among `words`.
pub(super) fn last_value(words: &str, key: &str) -> Option<String> {
    words
        .split_ascii_whitespace()
        .filter_map(|w| w.strip_prefix(key)?.strip_prefix('='))
        .next_back()
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::types::VolumeName;
    use super::*;
    use crate::layout::PartitionKind;

    fn resolver() -> RootResolver {
        let part = |disk: &str, number, kind, uuid: &str, label: Option<&str>| PartitionNames {
            disk: disk.into(),
            vdev: format!("xvd{disk}"),
            number,
            kind,
            uuid: Some(uuid.into()),
            former: vec![format!("old-{uuid}")],
            label: label.map(str::to_owned),
            partuuid: format!("{disk}-{number:02}"),
            read_only: false,
            volume: None,
        };
        RootResolver {
            partitions: vec![
                part("a", 1, PartitionKind::Swap, "swap", None),
                part("a", 2, PartitionKind::Linux, "root", Some("ROOT")),
                part("a", 3, PartitionKind::Linux, "home", None),
                part("b", 1, PartitionKind::Linux, "data", None),
            ],
            ..RootResolver::default()
        }
    }

    fn root(cmdline: &str, initrd: bool) -> String {
        let (words, _) = resolver().adapt(cmdline, initrd, None);
        last_value(&words, "root").unwrap_or_default()
    }

    #[test]
    fn roots_keep_their_meaning() {
        for (cmdline, expected) in [
            ("root=/dev/xvda2", "UUID=root"),
            ("root=/dev/sda3 ro", "UUID=home"),
            ("root=/dev/hdb1", "UUID=data"),
            ("root=/dev/xvdb", "UUID=data"),
            ("quiet", "UUID=root"),
            ("root=/dev/xvda9", "UUID=root"),
            ("root=/dev/xvda1", "UUID=root"),
            ("root=/dev/xvda3 root=/dev/xvda2", "UUID=root"),
            ("root=LABEL=ROOT", "LABEL=ROOT"),
            ("root=/dev/mapper/x", "/dev/mapper/x"),
            ("root=UUID=home", "UUID=home"),
            ("root=UUID=OLD-home ro", "UUID=home"),
            ("root=/dev/disk/by-uuid/old-root", "UUID=root"),
            ("root=/dev/disk/by-uuid/home", "/dev/disk/by-uuid/home"),
            ("root=UUID=older", "UUID=older"),
        ] {
            assert_eq!(root(cmdline, true), expected, "{cmdline}");
        }
        assert_eq!(root("root=UUID=home", false), "PARTUUID=a-03");
        assert_eq!(root("root=/dev/xvda2", false), "PARTUUID=a-02");
    }

    #[test]
    fn volumes_have_many_names() {
        let mut resolver = resolver();
        let (group, name, uuid) = ("my-vg".into(), "root".into(), "Gr00t".into());
        resolver.partitions.push(PartitionNames {
            disk: String::new(),
            vdev: String::new(),
            number: 0,
            uuid: Some("lv".into()),
            former: vec!["old-lv".into()],
            label: None,
            partuuid: String::new(),
            volume: Some(VolumeName { group, name, uuid }),
            ..resolver.partitions[1].clone()
        });
        for root in [
            "/dev/mapper/my--vg-root",
            "/dev/my-vg/root",
            "/dev/disk/by-id/dm-name-my--vg-root",
            "/dev/disk/by-id/dm-uuid-LVM-Gr00t",
            "UUID=lv",
        ] {
            let words = format!("root={root} ro console=ttyS0");
            assert_eq!(resolver.root_index(&words), Some(4), "{root}");
            assert_eq!(resolver.adapt(&words, true, None), (words.clone(), Vec::new()));
        }
        for root in ["/dev/mapper/my-vg-root", "/dev/my-vg/roo", "/dev/mapper/root", "my-vg/root"] {
            assert_eq!(resolver.root_index(&format!("root={root}")), None, "{root}");
        }
        // The initrd finds a volume by its name.
        let adapted = |words, likely| resolver.adapt(words, true, likely).0;
        let by_name = "root=/dev/mapper/my--vg-root";
        assert!(adapted("ro", Some(4)).starts_with(by_name));
        assert!(adapted("root=UUID=old-lv ro", None).starts_with(by_name));
    }

    #[test]
    fn legacy_settings() {
        let resolver = resolver();
        let with = |cmdline: &str, old_names, resume: Option<&str>, has_initrd| {
            let settings = LegacySettings {
                old_interface_names: old_names,
                resume_device: resume.map(str::to_owned),
            };
            resolver.with_legacy_settings(cmdline.into(), &settings, has_initrd).0
        };
        assert_eq!(with("ro", false, None, true), "ro");
        assert_eq!(with("ro -- x", true, None, true), "ro net.ifnames=0 -- x");
        assert_eq!(with("net.ifnames=1", true, None, true), "net.ifnames=1");
        let xen = Some("/dev/xvda1");
        assert_eq!(with("ro", true, xen, true), "ro net.ifnames=0 resume=UUID=swap");
        assert_eq!(with("ro", false, xen, false), "ro");
        assert_eq!(with("noresume", false, xen, true), "noresume");
    }

    #[test]
    fn the_user_names_the_root() {
        let mut resolver = resolver();
        for cmdline in ["root=/dev/mapper/x ro", "root=/dev/xvda2 a=\"b c\"", "quiet -- root=x"] {
            resolver.root_partition = Some(2);
            let (words, _) = resolver.adapt(cmdline, true, Some(1));
            assert!(words.starts_with("root=UUID=home ro"), "{words}");
            assert_eq!(words.contains("a=\"b c\""), cmdline.contains("b c"));
            assert_eq!(words.ends_with("-- root=x"), cmdline.contains("--"));
            assert!(resolver.knows_root(cmdline));
        }
        resolver.root_partition = None;
        for (cmdline, known) in [
            ("root=/dev/mapper/x", true),
            ("root=UUID=home", true),
            ("root=/dev/xvda2", true),
            ("root=/dev/xvda9", false),
            ("root=/dev/xvda1", false),
            ("quiet", false),
        ] {
            assert_eq!(resolver.knows_root(cmdline), known, "{cmdline}");
        }
        resolver.root_hint = Some("root=/dev/xvda2".into());
        assert!(resolver.knows_root("quiet"));
        assert_eq!(resolver.index_of("LABEL=ROOT"), Some(1));
        assert_eq!(resolver.index_of("/dev/sdb1"), Some(3));
        assert_eq!(resolver.index_of("proc"), None);
    }

    #[test]
    fn a_hint_and_a_guess() {
        let mut resolver = resolver();
        let (words, _) = resolver.adapt("", true, Some(2));
        assert_eq!(last_value(&words, "root").unwrap(), "UUID=home");
        resolver.root_hint = Some("root=/dev/xvdb1 ro".into());
        let (words, _) = resolver.adapt("", true, Some(2));
        assert_eq!(last_value(&words, "root").unwrap(), "UUID=data");
        let (words, _) = resolver.adapt("resume=/dev/xvda1", true, None);
        assert_eq!(last_value(&words, "resume").unwrap(), "UUID=swap");
    }
}
