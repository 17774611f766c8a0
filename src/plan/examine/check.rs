//! Checks of what an examining process says: it may have been taken over by the guest that it
//! examined.

use super::question::{FileOrigin, FoundBoot, FoundEdit};
use crate::adapt::STEPS;
use crate::edit::{Change, Edit, FileContent, MAX_FILE, can_be_stored};
use crate::fs::KernelMount;
use crate::loader::{LoaderKind, MenuRules};
use crate::lvm::{Survey, is_valid_name};
use crate::plan::types::BootSummary;
use crate::{Error, ErrorKind, Result};

/// Longest text in bytes that is shown: a command line is longer than a title, a path or a note.
const MAX_TEXT: usize = 4096;
/// Most texts of one kind.
const MAX_TEXTS: usize = 300;
/// Most edits of a guest.
const MAX_EDITS: usize = 2000;
/// Most initrds of a boot entry.
const MAX_INITRDS: usize = 64;
/// Longest file of a guest that is loaded. Loaders have lower limits; this keeps sums from
/// overflowing where there is no loader.
const MAX_LOADED: u64 = 1 << 40;

/// A text in a form that can be shown and put into a command line: of limited length, and without
/// line breaks.
pub(super) fn clean(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect()
}

/// Texts that are [`clean`], of a limited number.
pub(super) fn clean_all(texts: Vec<String>) -> Vec<String> {
    texts.iter().take(MAX_TEXTS).map(|text| clean(text)).collect()
}

/// Refuses rules whose texts would not stay in their line of a loader's configuration.
fn check_menu(menu: &MenuRules) -> Result<()> {
    let kernel = menu.kernel.iter().flat_map(|(kernel, initrds)| initrds.iter().chain([kernel]));
    let devices = menu.devices.iter().flat_map(|(old, new)| [old, new]);
    let single = [&menu.root, &menu.extra, &menu.append];
    let optional = [&menu.entry, &menu.swap, &menu.replace, &menu.volume].into_iter().flatten();
    let lists = menu.defaults.iter().chain(&menu.drivers_for);
    let mut all = kernel.chain(devices).chain(single).chain(optional).chain(lists);
    let fits = |text: &String| text.len() <= MAX_TEXT && !text.chars().any(char::is_control);
    match all.all(fits) {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Corrupt,
            "the guest's boot menu has a title or path that \
             is too long or contains control characters",
        )),
    }
}

/// `found` with clean texts, if it can be true.
///
/// # Errors
/// [`ErrorKind::TooLarge`] for what `loader` cannot load, [`ErrorKind::Corrupt`] for what makes no
/// sense.
pub(super) fn check_boot(found: FoundBoot, loader: LoaderKind) -> Result<FoundBoot> {
    let FoundBoot { summary, mut files, menu } = found;
    if files.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "the guest's boot entry has no kernel"));
    }
    if files.len() > 1 + MAX_INITRDS {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the guest's boot entry has more than {MAX_INITRDS} initrds"),
        ));
    }
    if summary.cmdline.contains(['\0', '\n']) {
        return Err(Error::new(ErrorKind::Corrupt, "the command line contains a line break"));
    }
    let most = loader.limits().map_or(usize::MAX, |limits| limits.cmdline);
    if summary.cmdline.len() > most {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "the command line has {} bytes; the loader takes {most}",
                summary.cmdline.len()
            ),
        ));
    }
    for file in &mut files {
        if file.len > MAX_LOADED {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("{} is too large", clean(&file.origin)),
            ));
        }
        if matches!(&file.from, FileOrigin::Guest { path, .. } if !path.starts_with('/')) {
            return Err(Error::new(ErrorKind::Corrupt, "a file of the guest has no path"));
        }
        file.origin = clean(&file.origin);
    }
    let summary = BootSummary {
        title: clean(&summary.title),
        kernel: clean(&summary.kernel),
        kernel_version: summary.kernel_version.as_deref().map(clean),
        initrds: clean_all(summary.initrds),
        notes: clean_all(summary.notes),
        warnings: clean_all(summary.warnings),
        ..summary
    };
    check_menu(&menu)?;
    Ok(FoundBoot { summary, files, menu })
}

/// The logical volumes, each within the physical volumes, whose lengths in bytes are `lens`.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for maps and names that no survey finds.
pub(super) fn check_volumes(found: Survey, lens: &[u64]) -> Result<Survey> {
    for volume in &found.volumes {
        let named = is_valid_name(&volume.group) && is_valid_name(&volume.name);
        if !named || !volume.uuid.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Error::new(ErrorKind::Corrupt, "a logical volume with an invalid name"));
        }
        volume.map.check(lens)?;
    }
    let copies = found.copies.as_deref().map(clean);
    Ok(Survey { problems: clean_all(found.problems), copies, ..found })
}

/// A type and options that this program itself could have chosen.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for anything else.
pub(super) fn check_mount(mount: Option<(String, String)>) -> Result<Option<KernelMount>> {
    let Some((fs_type, options)) = mount else { return Ok(None) };
    let plain = |name: &str| !name.contains([',', '/']) && !name.chars().any(char::is_control);
    let subvolume = options.strip_prefix("subvol=/");
    let fs_type = match (fs_type.as_str(), options.as_str()) {
        ("xfs", "nouuid") => "xfs",
        ("btrfs", "") => "btrfs",
        ("btrfs", _) if subvolume.is_some_and(plain) => "btrfs",
        _ => return Err(Error::new(ErrorKind::Corrupt, "options that no filesystem needs")),
    };
    Ok(Some(KernelMount { fs_type, options }))
}

/// A type of filesystem that is edited.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for anything else.
pub(super) fn check_fs_type(fs_type: &str) -> Result<&'static str> {
    let known =
        ["ext2", "ext3", "ext4", "xfs", "btrfs"].into_iter().find(|known| *known == fs_type);
    known.ok_or_else(|| Error::new(ErrorKind::Corrupt, "a filesystem that nobody has"))
}

/// The edits, if a step could have made them. They are made in the guest's own filesystem only.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for anything else, above all for a file of this host.
pub(super) fn check_edits(found: Vec<FoundEdit>) -> Result<Vec<Edit>> {
    let wrong = |what: &str| Err(Error::new(ErrorKind::Corrupt, format!("an edit {what}")));
    if found.len() > MAX_EDITS {
        return wrong("too many");
    }
    let mut edits = Vec::new();
    for FoundEdit { path, change, why, step } in found {
        let Some(step) = STEPS.iter().find(|known| known.name == step) else {
            return wrong("of an unknown step");
        };
        let up = path.split('/').any(|part| part == "..");
        if !path.starts_with('/') || up || !can_be_stored(&path) {
            return wrong("of a path that no step edits");
        }
        let len = match &change {
            Change::Rewrite { old, new } => old.len().max(new.len()),
            Change::Create { content: FileContent::Bytes(bytes), .. } => bytes.len(),
            Change::Create { content: FileContent::HostFile(_), .. } => {
                return wrong("that copies a file of this host");
            }
            Change::Symlink { target } if !can_be_stored(target) => {
                return wrong("with a symlink that no step makes");
            }
            Change::MakeDir(_) | Change::Symlink { .. } | Change::Remove => 0,
        };
        // What a step writes in place of a word may be much longer.
        if len > 16 * MAX_FILE {
            return wrong("of a file that is too large");
        }
        edits.push(Edit { path, change, why: clean(&why), step: step.name });
    }
    Ok(edits)
}

#[cfg(test)]
mod tests {
    use super::super::question::FoundFile;
    use super::*;
    use crate::edit::FileAccess;

    fn file(len: u64) -> FoundFile {
        FoundFile {
            origin: "/k\n in the guest".into(),
            len,
            identity: [0; 16],
            from: FileOrigin::Guest { source: 0, path: "/k".into() },
        }
    }

    fn found(files: Vec<FoundFile>, cmdline: &str) -> FoundBoot {
        let summary = BootSummary {
            cmdline: cmdline.into(),
            title: format!("a\x1bb{}", "ä".repeat(5000)),
            notes: vec!["n".into(); 5000],
            ..BootSummary::default()
        };
        FoundBoot { summary, files, menu: MenuRules::default() }
    }

    #[test]
    fn edits_that_no_step_makes_are_refused() {
        let edit = |path: &str, change| FoundEdit {
            path: path.into(),
            change,
            why: "because\n".into(),
            step: "fstab".into(),
        };
        let create = |content| Change::Create { content, access: FileAccess::root(0o644) };
        let good = check_edits(vec![edit("/etc/fstab", create(FileContent::Bytes(vec![1])))]);
        assert_eq!(good.unwrap()[0].why, "because ");
        let link = |target: &str| Change::Symlink { target: target.into() };
        for bad in [
            edit("/etc/x", create(FileContent::HostFile("/etc/shadow".into()))),
            edit("/etc/x", create(FileContent::Bytes(vec![0; 2 << 20]))),
            edit("etc/fstab", Change::Remove),
            edit("/etc/../fstab", Change::Remove),
            edit("/etc/fs\ntab", Change::Remove),
            edit("/etc/x\"", Change::Remove),
            edit("/etc/x", link("a\nb")),
            FoundEdit { step: "no such step".into(), ..edit("/etc/x", Change::Remove) },
        ] {
            let e = check_edits(vec![bad.clone()]).map(|_| bad).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Corrupt);
        }
        assert!(check_edits(vec![edit("/x", Change::Remove); MAX_EDITS + 1]).is_err());
    }

    #[test]
    fn only_known_mount_options_pass() {
        let check = |fs_type: &str, options: &str| {
            check_mount(Some((fs_type.into(), options.into()))).map(|m| m.is_some())
        };
        assert!(check_mount(None).unwrap().is_none());
        for (fs_type, options) in [("xfs", "nouuid"), ("btrfs", ""), ("btrfs", "subvol=/@")] {
            assert!(check(fs_type, options).unwrap(), "{fs_type} {options}");
        }
        for (fs_type, options) in [
            ("xfs", ""),
            ("ext4", ""),
            ("btrfs", "subvol=/@,user_subvol_rm_allowed"),
            ("btrfs", "device=/dev/sda"),
            ("overlay", "lowerdir=/"),
        ] {
            assert!(check(fs_type, options).is_err(), "{fs_type} {options}");
        }
    }

    #[test]
    fn what_cannot_be_true_is_refused() {
        let check = |found| check_boot(found, LoaderKind::default()).map_err(|e| e.kind());
        let good = check(found(vec![file(1); 3], "ro quiet")).unwrap();
        assert_eq!(good.files[0].origin, "/k  in the guest");
        assert!(good.summary.title.starts_with("a b") && good.summary.title.len() <= MAX_TEXT);
        assert_eq!(good.summary.notes.len(), MAX_TEXTS);
        for (bad, kind) in [
            (found(vec![], ""), ErrorKind::NotFound),
            (found(vec![file(1); 66], ""), ErrorKind::TooLarge),
            (found(vec![file(u64::MAX)], ""), ErrorKind::TooLarge),
            (found(vec![file(1)], "ro\nquiet"), ErrorKind::Corrupt),
            (found(vec![file(1)], &"x".repeat(5000)), ErrorKind::TooLarge),
        ] {
            assert_eq!(check(bad).map(|f| f.files.len()), Err(kind));
        }
        let mut lines = found(vec![file(1)], "ro");
        lines.menu.root = "UUID=1\nset x=y".into();
        assert_eq!(check(lines).map(|_| ()), Err(ErrorKind::Corrupt));
        let mut relative = file(1);
        relative.from = FileOrigin::Guest { source: 0, path: "k".into() };
        assert_eq!(check(found(vec![relative], "")).map(|_| ()), Err(ErrorKind::Corrupt));
    }
}
