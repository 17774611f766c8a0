//! Rules for a loader that reads the guest's boot menu itself: how to start any of its entries on KVM.

use super::root_resolver::{RootResolver, last_value};
use super::types::{GuestBootRequest, PartitionNames};
use crate::adapt::LegacySettings;
use crate::bootmenu::MenuFormat;
use crate::guest::select::{Boot, BootSource};
use crate::loader::MenuRules;

/// The rules for the guest that boots `boot` with `cmdline`. Its menu is on the partition `index`
/// of the resolver's.
pub(super) fn menu_rules(
    boot: &Boot,
    cmdline: &str,
    index: usize,
    request: &GuestBootRequest,
    resolver: &RootResolver,
    settings: &LegacySettings,
) -> MenuRules {
    let has_initrd = !boot.initrds.is_empty();
    let spec = |p: &PartitionNames| resolver.root_spec(p, has_initrd);
    let menu = resolver.partitions.get(index);
    let mut devices = Vec::new();
    for p in resolver.partitions.iter().filter(|p| p.kind.may_hold_root()) {
        if p.volume.is_none() {
            let partuuid = format!("PARTUUID={}", p.partuuid);
            devices.push((format!("{}{}", p.disk, p.number), spec(p)));
            devices.push((partuuid.clone(), partuuid));
        }
        devices.extend(p.former.iter().map(|uuid| (format!("UUID={uuid}"), spec(p))));
    }
    devices.extend(resolver.shared_roots(has_initrd));
    let defaults = resolver.legacy_parameters("", settings, has_initrd);
    MenuRules {
        partition: menu.map_or(0, |p| p.number),
        volume: menu.and_then(|p| Some(p.volume.as_ref()?.mapper())),
        is_copied: menu.is_some_and(|p| resolver.is_copied(p)),
        entry: request.entry.as_ref().and_then(|_| entry_of(boot)),
        kernel: request.kernel.as_ref().map(|_| (boot.kernel.clone(), boot.initrds.clone())),
        root: last_value(cmdline, "root").unwrap_or_default(),
        devices,
        swap: resolver.swap_spec(),
        defaults: defaults.into_iter().map(|(word, _)| word).collect(),
        extra: request.append.clone().unwrap_or_default(),
        append: appended(cmdline, resolver),
        replace: resolver.replace.clone(),
        drivers_for: Vec::new(),
    }
}

/// The parameters that are appended to every entry. The last `root=` wins.
fn appended(cmdline: &str, resolver: &RootResolver) -> String {
    let root = resolver.root_partition.and_then(|_| last_value(cmdline, "root"));
    let root = root.map(|root| format!("root={root}"));
    root.into_iter().chain(resolver.append.clone()).collect::<Vec<_>>().join(" ")
}

/// The chosen entry of the menu, as GRUB's variable `default` names it.
fn entry_of(boot: &Boot) -> Option<String> {
    let BootSource::Config { format, index, .. } = &boot.source else { return None };
    let title = boot.entries.get(*index).map(|entry| entry.title.clone());
    match format {
        // A number counts the entries of a submenu as one.
        MenuFormat::Grub2 | MenuFormat::Bls => title,
        MenuFormat::GrubLegacy | MenuFormat::Extlinux => Some(index.to_string()),
    }
}

/// The names by which the menu may refer to the kernel that boots.
pub(super) fn kernel_names(boot: &Boot) -> Vec<String> {
    let mut paths = vec![boot.kernel.as_str()];
    if let BootSource::Config { index, .. } = &boot.source {
        paths.extend(boot.entries.get(*index).map(|entry| entry.kernel.as_str()));
    }
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let mut names: Vec<String> = paths.into_iter().map(name).collect();
    // A name with spaces would be two names in the list.
    names.retain(|name| !name.is_empty() && !name.contains(char::is_whitespace));
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::select::{EntrySelector, EntrySummary};
    use crate::layout::PartitionKind;

    fn names(
        disk: &str,
        number: u32,
        kind: PartitionKind,
        uuid: Option<&str>,
        former: &[&str],
    ) -> PartitionNames {
        PartitionNames {
            disk: disk.into(),
            vdev: format!("xvd{disk}"),
            number,
            kind,
            uuid: uuid.map(str::to_owned),
            former: former.iter().map(|f| (*f).to_owned()).collect(),
            label: None,
            partuuid: format!("{disk}-{number}"),
            read_only: false,
            volume: None,
        }
    }

    fn boot(format: MenuFormat, initrds: &[&str]) -> Boot {
        let entry = |index: usize, title: &str, kernel: &str| EntrySummary {
            index,
            title: title.into(),
            kernel: kernel.into(),
            hypervisor: false,
        };
        Boot {
            title: "More>Two".into(),
            source: BootSource::Config { path: "/menu".into(), format, index: 1 },
            kernel: "/boot/vmlinuz-6".into(),
            initrds: initrds.iter().map(|i| (*i).to_owned()).collect(),
            cmdline: String::new(),
            entries: vec![entry(0, "One", "/boot/v"), entry(1, "More>Two", "(hd0,1)/vmlinuz")],
            notes: Vec::new(),
        }
    }

    fn resolver() -> RootResolver {
        let linux = |number, uuid, former| names("a", number, PartitionKind::Linux, uuid, former);
        let swap = names("a", 3, PartitionKind::Swap, Some("swap"), &[]);
        let partitions = vec![linux(1, None, &[]), linux(2, Some("new"), &["old"]), swap];
        RootResolver { partitions, append: Some("quiet".into()), ..RootResolver::default() }
    }

    #[test]
    fn devices_are_found_by_the_old_names() {
        let request = GuestBootRequest { append: Some("extra".into()), ..Default::default() };
        let settings = LegacySettings::default();
        let rules = |initrds: &[&str]| {
            let boot = boot(MenuFormat::Grub2, initrds);
            menu_rules(&boot, "root=x root=UUID=new ro", 1, &request, &resolver(), &settings)
        };
        let with = rules(&["/initrd"]);
        let expected = [
            ("a1", "PARTUUID=a-1"),
            ("PARTUUID=a-1", "PARTUUID=a-1"),
            ("a2", "UUID=new"),
            ("PARTUUID=a-2", "PARTUUID=a-2"),
            ("UUID=old", "UUID=new"),
        ];
        assert_eq!(with.devices, expected.map(|(old, new)| (old.to_owned(), new.to_owned())));
        assert_eq!((with.partition, with.root.as_str()), (2, "UUID=new"));
        assert_eq!((with.entry, with.kernel), (None, None));
        assert_eq!(with.swap.as_deref(), Some("UUID=swap"));
        assert_eq!((with.extra.as_str(), with.append.as_str()), ("extra", "quiet"));
        // Only an initrd can find a filesystem by its UUID.
        assert_eq!(rules(&[]).devices[2].1, "PARTUUID=a-2");
    }

    #[test]
    fn the_chosen_entry_is_named_as_grub_names_it() {
        let entry = Some(EntrySelector::Index(1));
        let request = GuestBootRequest { entry, ..Default::default() };
        let named = |format| {
            let settings = LegacySettings::default();
            menu_rules(&boot(format, &[]), "", 1, &request, &resolver(), &settings).entry.unwrap()
        };
        assert_eq!(named(MenuFormat::Grub2), "More>Two");
        assert_eq!(named(MenuFormat::GrubLegacy), "1");
        assert_eq!(kernel_names(&boot(MenuFormat::Grub2, &[])), ["vmlinuz-6", "vmlinuz"]);
    }
}
