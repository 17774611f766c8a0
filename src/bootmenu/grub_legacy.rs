//! GRUB legacy: `menu.lst`, `grub.conf`.
//!
//! Source: GNU GRUB 0.97 manual, chapters "Configuration" and "Commands".

use super::menu::{MAX_ENTRIES, Menu, MenuEntry};
use super::text::{bounded, charge_words, dir_of, first_word, read_optional, strip_device};
use crate::Result;
use crate::fs::GuestFs;

/// Parses a menu. `fs` and `path` are needed for `default saved`, whose number is in the file
/// `default` in the same directory as the menu.
///
/// # Errors
/// `TooLarge` when the budget of `fs` is used up; errors from reading that file.
pub fn parse(fs: &dyn GuestFs, path: &str, text: &str) -> Result<Menu> {
    let mut menu = Menu::default();
    let mut default = String::new();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (command, rest) = split_command(line);
        if command == "title" {
            if menu.entries.len() >= MAX_ENTRIES {
                break;
            }
            menu.entries.push(MenuEntry { title: rest.to_owned(), ..MenuEntry::default() });
            continue;
        }
        match menu.entries.last_mut() {
            Some(entry) => entry_command(fs, entry, command, rest)?,
            None => match command {
                "default" => default = rest.to_owned(),
                "fallback" => {
                    let numbers = rest.split_whitespace().filter_map(|n| n.parse().ok());
                    menu.fallback = numbers.take(MAX_ENTRIES).collect();
                }
                _ => {}
            },
        }
    }
    if default == "saved" {
        let saved = read_optional(fs, &format!("{}/default", dir_of(path)))?.unwrap_or_default();
        menu.default = saved.lines().next().and_then(|l| l.trim().parse().ok()).unwrap_or(0);
    } else {
        menu.default = default.parse().unwrap_or(0);
    }
    Ok(menu)
}

/// A command and its argument, separated by blanks or a single `=`.
fn split_command(line: &str) -> (&str, &str) {
    let end = line.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(line.len());
    let rest = line[end..].trim_start();
    (&line[..end], rest.strip_prefix('=').unwrap_or(rest).trim())
}

fn entry_command(fs: &dyn GuestFs, entry: &mut MenuEntry, command: &str, rest: &str) -> Result<()> {
    match command {
        "kernel" => {
            let (path, args) = path_and_args(rest);
            entry.hypervisor = false;
            entry.kernel = path;
            entry.cmdline = args;
        }
        "initrd" => {
            charge_words(fs, rest)?;
            entry.initrds = rest.split_whitespace().map(|p| strip_device(p).into()).collect()
        }
        // The first module is Xen's dom0 kernel, so the preceding kernel is a hypervisor.
        "module" | "modulenounzip" => {
            let (path, args) = path_and_args(rest);
            if !entry.hypervisor {
                entry.hypervisor = true;
                entry.kernel = path;
                entry.cmdline = args;
                entry.initrds.clear();
            } else if entry.initrds.is_empty() {
                entry.initrds.push(path);
            }
        }
        _ => {}
    }
    Ok(())
}

fn path_and_args(rest: &str) -> (String, String) {
    let (mut path, mut args) = first_word(rest);
    while path.starts_with("--") {
        (path, args) = first_word(args);
    }
    (strip_device(path).to_owned(), bounded(args.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    #[test]
    fn menu_of_xen_tools() {
        let text = "# c\ndefault=1\nfallback 0 2\ntimeout 2\r\n\n\
            title\t\tDebian GNU/Linux\nroot\t\t(hd0,0)\nmakeactive\n\
            kernel\t\t(hd0,0)/vmlinuz root=/dev/xvda2 ro elevator=noop \ninitrd\t\t/initrd.img\n\
            savedefault\n\n\
            title Xen\nkernel /boot/xen.gz dom0_mem=512M\nmodule /boot/vmlinuz-xen root=/dev/sda1\n\
            module /boot/initrd-xen\n\n\
            title Windows\nchainloader +1\n";
        let menu = parse(&MemFs::new(), "/boot/grub/menu.lst", text).unwrap();
        assert_eq!((menu.default, &menu.fallback[..]), (1, &[0, 2][..]));
        assert_eq!(menu.entries.len(), 3);
        let e = &menu.entries[0];
        assert_eq!((e.title.as_str(), e.kernel.as_str()), ("Debian GNU/Linux", "/vmlinuz"));
        assert_eq!(e.cmdline, "root=/dev/xvda2 ro elevator=noop");
        assert_eq!(e.initrds, ["/initrd.img"]);
        let e = &menu.entries[1];
        assert!(e.hypervisor);
        assert_eq!(
            (e.kernel.as_str(), e.cmdline.as_str()),
            ("/boot/vmlinuz-xen", "root=/dev/sda1")
        );
        assert_eq!(e.initrds, ["/boot/initrd-xen"]);
        assert!(menu.entries[2].kernel.is_empty());
    }

    #[test]
    fn default_saved() {
        let fs = MemFs::new().file("/grub/default", "1\n#\n#\n");
        let text = "default saved\ntitle a\nkernel /a\ntitle b\nkernel --type=linux /b x\n";
        let menu = parse(&fs, "/grub/menu.lst", text).unwrap();
        assert_eq!(menu.default, 1);
        assert_eq!(
            (menu.entries[1].kernel.as_str(), menu.entries[1].cmdline.as_str()),
            ("/b", "x")
        );
        assert_eq!(parse(&MemFs::new(), "/grub/menu.lst", text).unwrap().default, 0);
    }
}
