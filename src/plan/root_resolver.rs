//! Resolves partition names: from those that a Xen guest uses to those that are valid on KVM.

use super::types::PartitionNames;
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
        let swap = self.partitions.iter().find(|p| p.kind.is_swap());
        // A partition without a known UUID may hold filesystems whose UUIDs were not read.
        let all = self.partitions.iter().filter(|p| !p.kind.holds_volumes());
        let uuids: Option<Vec<String>> = all.map(|p| p.uuid.clone()).collect();
        let adapted = adapt(
            cmdline,
            &CmdlineContext {
                has_initrd,
                root_uuid: root.and_then(|p| p.uuid.clone()),
                root_volume: root.and_then(|p| Some(p.volume.as_ref()?.device())),
                former_uuids: root.map(|p| p.former.clone()).unwrap_or_default(),
                root_partuuid: root.map(|p| p.partuuid.clone()).unwrap_or_default(),
                swap_uuid: swap.and_then(|p| p.uuid.clone()),
                all_uuids: uuids.filter(|_| self.complete),
                append: self.append.clone(),
                replace: self.replace.clone(),
            },
        );
        (adapted.cmdline, adapted.changes)
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
                let mut swaps = self.partitions.iter().filter(|p| p.kind.is_swap());
                let word = match swaps.find_map(|p| p.uuid.as_ref()) {
                    Some(uuid) => format!("resume=UUID={uuid}"),
                    None => "noresume".to_owned(),
                };
                let why = format!("{word} added: the guest's initrd may wait for {device}");
                added.push((word, why));
            }
        }
        added
    }

    /// The partition that `name` refers to: a device under Xen or KVM, `UUID=` or `LABEL=`.
    fn find(&self, name: &str) -> Option<&PartitionNames> {
        let same = |a: &Option<String>, b: &str| {
            a.as_ref().is_some_and(|a| a.eq_ignore_ascii_case(b.trim_matches('"')))
        };
        if let Some(uuid) =
            name.strip_prefix("UUID=").or_else(|| name.strip_prefix("/dev/disk/by-uuid/"))
        {
            let former = |p: &&PartitionNames| {
                p.former.iter().any(|f| f.eq_ignore_ascii_case(uuid.trim_matches('"')))
            };
            let now = self.partitions.iter().find(|p| same(&p.uuid, uuid));
            return now.or_else(|| self.partitions.iter().find(former));
        }
        if let Some(label) = name.strip_prefix("LABEL=") {
            return self.partitions.iter().find(|p| same(&p.label, label));
        }
        if let Some(partuuid) = name.strip_prefix("PARTUUID=") {
            return self.partitions.iter().find(|p| p.partuuid.eq_ignore_ascii_case(partuuid));
        }
        let is_called = |p: &&PartitionNames| {
            p.volume.as_ref().is_some_and(|v| v.is_called(name.trim_matches('"')))
        };
        if let Some(volume) = self.partitions.iter().find(is_called) {
            return Some(volume);
        }
        let device = DeviceName::parse(name)?;
        self.partitions.iter().find(|p| p.disk == device.letters() && p.number == device.number())
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
