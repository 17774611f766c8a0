//! Finding the guest's boot menu.
//!
//! Files are tried in pygrub's order, and the first that exists is used, so a guest boots the same
//! entry as under Xen. Last comes a place that pygrub does not know: a directory of Boot Loader
//! Specification entries without a GRUB menu.

use super::menu::{Config, Menu, MenuFormat};
use super::text::{is_absent, read_text};
use super::{bls, extlinux, grub_legacy, grub2};
use crate::fs::{FileKind, GuestFs};
use crate::{Error, ErrorKind, Result};

/// All places where a boot menu is looked for, in order. Those without `/boot` are for an image of
/// a separate /boot filesystem.
pub const PLACES: [(&str, MenuFormat); 15] = [
    ("/boot/grub/grub.cfg", MenuFormat::Grub2),
    ("/grub/grub.cfg", MenuFormat::Grub2),
    ("/boot/grub2/grub.cfg", MenuFormat::Grub2),
    ("/grub2/grub.cfg", MenuFormat::Grub2),
    ("/boot/isolinux/isolinux.cfg", MenuFormat::Extlinux),
    ("/boot/extlinux/extlinux.conf", MenuFormat::Extlinux),
    ("/boot/extlinux.conf", MenuFormat::Extlinux),
    ("/extlinux/extlinux.conf", MenuFormat::Extlinux),
    ("/extlinux.conf", MenuFormat::Extlinux),
    ("/boot/grub/menu.lst", MenuFormat::GrubLegacy),
    ("/boot/grub/grub.conf", MenuFormat::GrubLegacy),
    ("/grub/menu.lst", MenuFormat::GrubLegacy),
    ("/grub/grub.conf", MenuFormat::GrubLegacy),
    ("/boot/loader/entries", MenuFormat::Bls),
    ("/loader/entries", MenuFormat::Bls),
];

/// Finds and parses the guest's boot menu; `None` if it has none.
///
/// # Errors
/// `TooLarge` for a file larger than [`MAX_CONFIG`](super::MAX_CONFIG) and for a menu that exceeds
/// the budget of `fs`; otherwise errors from reading it.
pub fn find(fs: &dyn GuestFs) -> Result<Option<Config>> {
    for (path, format) in PLACES {
        let kind = match fs.stat(path) {
            Ok(stat) => stat.kind,
            Err(e) if is_absent(e.kind()) => continue,
            Err(e) => return Err(e),
        };
        let wanted = if format == MenuFormat::Bls { FileKind::Dir } else { FileKind::File };
        if kind != wanted {
            continue;
        }
        let menu = parse(fs, path, format).map_err(|e| match e.kind() {
            ErrorKind::TooLarge => Error::with_source(
                ErrorKind::TooLarge,
                format!("boot menu {path} in the guest is too large to read"),
                e,
            ),
            _ => e,
        })?;
        if format == MenuFormat::Bls && menu.entries.is_empty() {
            continue;
        }
        return Ok(Some(Config { path: path.to_owned(), format, menu }));
    }
    Ok(None)
}

fn parse(fs: &dyn GuestFs, path: &str, format: MenuFormat) -> Result<Menu> {
    match format {
        MenuFormat::Grub2 => grub2::parse(fs, path, &read_text(fs, path)?),
        MenuFormat::GrubLegacy => grub_legacy::parse(fs, path, &read_text(fs, path)?),
        MenuFormat::Extlinux => extlinux::parse(fs, path, &read_text(fs, path)?),
        MenuFormat::Bls => {
            let entries = bls::read_entries(fs, path, &|_| None)?;
            Ok(Menu { entries, ..Menu::default() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;
    use std::time::{Duration, Instant};

    /// Menus that once took gigabytes, minutes or the whole stack: the path of the file, its text,
    /// and whether it is refused.
    fn bombs() -> Vec<(&'static str, String, bool)> {
        let bangs = |count| format!("if {}true; then\nfi\n", "! ".repeat(count));
        let variables: String =
            (0..250).map(|i| format!("set v{i}={}\n", "t".repeat(2000))).collect();
        let submenus: String =
            (0..20).map(|i| format!("submenu '{}{i}' {{\n", "t".repeat(30_000))).collect();
        let words = format!("set w='{}'\n", "a ".repeat(2000));
        let entry = "menuentry a {\nlinux /k\n}\n";
        let grub2 = "/boot/grub/grub.cfg";
        vec![
            (grub2, bangs(4000), false),
            (grub2, bangs(32_000), false),
            (grub2, bangs(500_000), true),
            (grub2, bangs(1000).repeat(450), true),
            (grub2, format!("if [ {}a ]; then\nfi\n", "! ".repeat(32_000)), false),
            (grub2, submenus + &entry.repeat(5000), true),
            (grub2, variables + &"submenu a {\n}\n".repeat(30_000), false),
            (
                grub2,
                words + &"menuentry a {\ninitrd $w $w $w $w $w $w $w $w\n}\n".repeat(900),
                true,
            ),
            (grub2, "submenu a {\n".repeat(80_000), true),
            (grub2, "if [ a ]; then\n".repeat(20_000), true),
            (grub2, "load_env\n".repeat(50_000), true),
            (grub2, ";".repeat(1_000_000), true),
            (
                "/boot/grub/menu.lst",
                format!("title a\n{}", format!("initrd{}\n", " a".repeat(80)).repeat(6000)),
                true,
            ),
            ("/boot/grub/menu.lst", "title a\n".repeat(100_000), false),
            ("/boot/grub/menu.lst", format!("fallback {}", "1 ".repeat(500_000)), false),
            ("/extlinux.conf", format!("label a\ninitrd {}", ",".repeat(1_000_000)), true),
            (
                "/extlinux.conf",
                format!("append {}\n{}", "a ".repeat(8000), "label a\n".repeat(900)),
                true,
            ),
            ("/extlinux.conf", "include /extlinux.conf\n".repeat(40_000), true),
        ]
    }

    #[test]
    fn hostile_menus_are_cheap() {
        for (path, text, refused) in bombs() {
            let fs = MemFs::new()
                .file(path, text.clone())
                .file("/boot/grub/grubenv", "a=b\n".repeat(200_000));
            let start = Instant::now();
            // One recursion per word would need more than this stack.
            let found = std::thread::Builder::new()
                .stack_size(512 << 10)
                .spawn(move || find(&fs))
                .unwrap()
                .join()
                .unwrap();
            let (took, shown) = (start.elapsed(), &text[..text.len().min(60)]);
            assert!(took < Duration::from_secs(60), "{shown}: {took:?}");
            match found {
                Ok(found) => {
                    assert!(found.is_some() && !refused, "{shown}");
                }
                Err(e) => {
                    assert!(refused, "{shown}: {e}");
                    assert_eq!(e.kind(), ErrorKind::TooLarge);
                    assert!(e.to_string().contains(path), "{e}");
                }
            }
        }
    }

    #[test]
    fn hostile_entries_are_cheap() {
        let dir = "/boot/loader/entries";
        let options =
            format!("linux /k\n{}", format!("options {}\n", "$a".repeat(16)).repeat(1300));
        let small = (0..10_000).map(|i| (format!("{dir}/{i}.conf"), "linux /k\n".to_owned()));
        let large = (0..100).map(|i| (format!("{dir}/{i}.conf"), options.clone()));
        let files: [(Vec<_>, bool); 2] = [(small.collect(), false), (large.collect(), true)];
        for (files, refused) in files {
            let fs = files.into_iter().fold(MemFs::new(), |fs, (path, text)| fs.file(&path, text));
            let fs =
                fs.file("/boot/grub/grub.cfg", format!("set a={}\nblscfg\n", "b".repeat(4000)));
            let start = Instant::now();
            let found = find(&fs);
            assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
            match found {
                Ok(found) => {
                    assert_eq!(found.map(|f| (f.menu.entries.len(), refused)), Some((1000, false)))
                }
                Err(e) => assert!(refused && e.to_string().contains("/boot/grub/grub.cfg"), "{e}"),
            }
        }
    }

    #[test]
    fn directories_are_charged() {
        let dir = "/boot/loader/entries";
        let files = (0..60_000).map(|i| format!("{dir}/{i}"));
        let fs = files.fold(MemFs::new(), |fs, path| fs.file(&path, ""));
        let reads = (0..20).map(|_| fs.read_dir(dir)).take_while(Result::is_ok).count();
        assert_eq!(reads, 10);
        let e = fs.read_dir(dir).unwrap_err();
        assert!(e.kind() == ErrorKind::TooLarge && e.to_string().contains(dir), "{e}");
    }
}
