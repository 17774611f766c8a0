//! extlinux, isolinux and syslinux configurations.
//!
//! Sources: the Syslinux wiki, "Config" and "Mboot.c32".

use super::menu::{MAX_ENTRIES, Menu, MenuEntry};
use super::text::{bounded, charge_words, dir_of, first_word, read_optional};
use crate::Result;
use crate::fs::GuestFs;

/// Maximum nesting depth of `INCLUDE`.
const MAX_DEPTH: usize = 4;
/// Maximum number of included files in total.
const MAX_INCLUDES: usize = 32;

/// Parses a configuration. Relative paths are relative to the directory of `path`.
///
/// # Errors
/// `TooLarge` when the budget of `fs` is used up; errors from reading an included file.
pub fn parse(fs: &dyn GuestFs, path: &str, text: &str) -> Result<Menu> {
    let mut p = Parser {
        fs,
        dir: dir_of(path).to_owned(),
        entries: Vec::new(),
        append: String::new(),
        default: None,
        ontimeout: None,
        menu_default: None,
        includes: 0,
    };
    p.file(text, 0)?;
    let mut menu = Menu::default();
    // ONTIMEOUT, or else DEFAULT, boots when nobody chooses. If that is not a label but starts a
    // menu, the entry with MENU DEFAULT boots.
    let wanted = p.ontimeout.or(p.default);
    let named = wanted.and_then(|w| {
        let label = first_word(&w).0.to_owned();
        p.entries.iter().position(|d| d.label.eq_ignore_ascii_case(&label))
    });
    menu.default = named.or(p.menu_default).unwrap_or(0);
    let entries = p.entries.into_iter().map(|draft| draft.finish(fs, &p.dir, &p.append));
    menu.entries = entries.collect::<Result<_>>()?;
    Ok(menu)
}

struct Parser<'a> {
    fs: &'a dyn GuestFs,
    dir: String,
    entries: Vec<Draft>,
    /// APPEND before the first LABEL: for entries without their own APPEND.
    append: String,
    default: Option<String>,
    ontimeout: Option<String>,
    menu_default: Option<usize>,
    includes: usize,
}

#[derive(Default)]
struct Draft {
    label: String,
    title: Option<String>,
    kernel: String,
    initrd: Option<String>,
    append: Option<String>,
}

impl Parser<'_> {
    fn file(&mut self, text: &str, depth: usize) -> Result<()> {
        for line in text.lines() {
            let (word, rest) = first_word(line);
            if word.is_empty() || word.starts_with('#') {
                continue;
            }
            let (mut word, mut rest) = (word.to_ascii_lowercase(), rest);
            let in_menu = word == "menu";
            if in_menu {
                let (second, tail) = first_word(rest);
                word = format!("menu {}", second.to_ascii_lowercase());
                rest = tail;
            }
            if word == "label" {
                if self.entries.len() >= MAX_ENTRIES {
                    return Ok(());
                }
                self.entries.push(Draft { label: unquote(rest).to_owned(), ..Draft::default() });
                continue;
            }
            if matches!(word.as_str(), "include" | "menu include") {
                self.include(rest, depth)?;
                continue;
            }
            self.command(&word, rest);
        }
        Ok(())
    }

    fn include(&mut self, rest: &str, depth: usize) -> Result<()> {
        if depth >= MAX_DEPTH || self.includes >= MAX_INCLUDES {
            return Ok(());
        }
        self.includes += 1;
        let path = absolute(&self.dir, first_word(rest).0);
        match read_optional(self.fs, &path)? {
            Some(text) => self.file(&text, depth + 1),
            None => Ok(()),
        }
    }

    fn command(&mut self, word: &str, rest: &str) {
        match word {
            "default" => self.default = Some(unquote(rest).to_owned()),
            "ontimeout" => self.ontimeout = Some(unquote(rest).to_owned()),
            "menu default" => self.menu_default = self.entries.len().checked_sub(1),
            _ => {}
        }
        let Some(entry) = self.entries.last_mut() else {
            if word == "append" {
                self.append = bounded(unquote(rest).to_owned());
            }
            return;
        };
        match word {
            // KERNEL may have parameters after the file name; APPEND then replaces them.
            "kernel" | "linux" => {
                let (file, args) = first_word(rest);
                entry.kernel = file.to_owned();
                if !args.is_empty() {
                    entry.append.get_or_insert_with(|| bounded(args.to_owned()));
                }
            }
            "initrd" => entry.initrd = Some(rest.to_owned()),
            "append" => entry.append = Some(bounded(unquote(rest).to_owned())),
            "menu label" => entry.title = Some(rest.replacen('^', "", 1)),
            _ => {}
        }
    }
}

impl Draft {
    fn finish(self, fs: &dyn GuestFs, dir: &str, default_append: &str) -> Result<MenuEntry> {
        let mut entry = MenuEntry { id: Some(self.label.clone()), ..MenuEntry::default() };
        entry.title = self.title.unwrap_or(self.label);
        // `APPEND -` means no parameters, not even those before the first label.
        let append = match self.append.as_deref() {
            Some("-") => "",
            Some(text) => text,
            None => default_append,
        };
        charge_words(fs, append)?;
        let mut initrd = self.initrd.unwrap_or_default();
        if self.kernel.ends_with("mboot.c32") {
            let parts: Vec<&str> = append.split("---").map(str::trim).collect();
            // Xen, its kernel and an initrd or, as pygrub allows, just the latter two.
            let (kernel, module) = match parts[..] {
                [_, kernel, initrd, ..] => (kernel, initrd),
                [kernel, initrd] => (kernel, initrd),
                _ => ("", ""),
            };
            entry.hypervisor = parts.len() > 2;
            let (file, args) = first_word(kernel);
            entry.kernel = absolute(dir, file);
            entry.cmdline = args.to_owned();
            initrd = first_word(module).0.to_owned();
        } else {
            let (kept, named): (Vec<&str>, Vec<&str>) = append
                .split_whitespace()
                .partition(|w| !w.to_ascii_lowercase().starts_with("initrd="));
            entry.cmdline = kept.join(" ");
            if let Some(last) = named.last() {
                initrd = last["initrd=".len()..].to_owned();
            }
            // Syslinux modules (menus, chain loaders) are not kernels.
            if !self.kernel.ends_with(".c32") {
                entry.kernel = absolute(dir, &self.kernel);
            }
        }
        charge_words(fs, &initrd)?;
        entry.initrds =
            initrd.split([',', ' ']).filter(|f| !f.is_empty()).map(|f| absolute(dir, f)).collect();
        Ok(entry)
    }
}

fn absolute(dir: &str, path: &str) -> String {
    if path.is_empty() || path.starts_with('/') { path.to_owned() } else { format!("{dir}/{path}") }
}

fn unquote(text: &str) -> &str {
    text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    #[test]
    fn labels_defaults_and_modules() {
        let fs = MemFs::new()
            .file("/boot/extlinux/more.conf", "label inc\nlinux /vmlinuz\nINCLUDE more.conf\n");
        let text = "DEFAULT l1\nAPPEND quiet\nLABEL l0\n KERNEL vmlinuz-0\n\
            label l1\n  menu label ^Debian\n  linux ../vmlinuz\n  initrd a.img,/b.img\n\
              append root=/dev/xvda1 ro\n\
            label l2\n kernel /k\n append initrd=/i.gz root=/dev/xvda1 -- x\n\
            label xen\n kernel mboot.c32\n append xen.gz dom0=1 --- vmlinuz root=/dev/sda1 --- initrd\n\
            label menu\n kernel menu.c32\n\
            label none\n kernel /k\n append -\n\
            include more.conf\n";
        let menu = parse(&fs, "/boot/extlinux/extlinux.conf", text).unwrap();
        assert_eq!(menu.default, 1);
        let got: Vec<_> = menu
            .entries
            .iter()
            .map(|e| format!("{}|{}|{}|{}", e.title, e.kernel, e.initrds.join(","), e.cmdline))
            .collect();
        let d = "/boot/extlinux";
        assert_eq!(
            got[..6],
            [
                format!("l0|{d}/vmlinuz-0||quiet"),
                format!("Debian|{d}/../vmlinuz|{d}/a.img,/b.img|root=/dev/xvda1 ro"),
                "l2|/k|/i.gz|root=/dev/xvda1 -- x".to_owned(),
                format!("xen|{d}/vmlinuz|{d}/initrd|root=/dev/sda1"),
                "menu|||quiet".to_owned(),
                "none|/k||".to_owned(),
            ]
        );
        assert!(menu.entries[3].hypervisor && got[6].starts_with("inc|/vmlinuz|"));
    }

    #[test]
    fn which_default() {
        for (head, want) in [
            ("", 0),
            ("default b\n", 1),
            ("default B arg\n", 1),
            ("default nothing\n", 0),
            ("default b\nontimeout c\n", 2),
        ] {
            let text = format!("{head}label a\nlinux /a\nlabel b\nlinux /b\nlabel c\nlinux /c\n");
            let menu = parse(&MemFs::new(), "/extlinux.conf", &text).unwrap();
            assert_eq!(menu.default, want, "{head}");
        }
        let text = "default menu.c32\nlabel a\nlinux /a\nlabel b\nmenu default\nlinux /b\n";
        assert_eq!(parse(&MemFs::new(), "/extlinux.conf", text).unwrap().default, 1);
    }
}
