//! GRUB 2's `grub.cfg`: an interpreter for the part of GRUB's script language that menus use.
//!
//! Variables, `if`, `menuentry`, `submenu`, `source`, `load_env` and `blscfg` work. Functions and
//! loops are skipped; other commands do nothing and count as failed in an `if`. Source: GNU GRUB
//! manual, "Writing full configuration files directly" and "Commands".

mod condition;
mod words;

use std::collections::BTreeMap;

use self::words::{end_of_command, join, matching, parse_env, split_path};
use super::bls;
use super::grub_script::{Part, Token, lex};
use super::menu::{MAX_ENTRIES, Menu, MenuEntry};
use super::text::{MAX_CMDLINE, bounded, dir_of, read_optional, strip_device};
use crate::fs::{Cost, FileKind, GuestFs};
use crate::{Error, ErrorKind, Result};

/// Maximum nesting depth of blocks and sourced files; a deeper menu is refused.
const MAX_DEPTH: usize = 24;
/// Maximum number of sourced files in total; further ones are skipped.
const MAX_SOURCES: usize = 16;
/// Maximum number of variables, and maximum length of a value in bytes.
const MAX_VARIABLES: usize = 256;
const MAX_VALUE: usize = 4096;
/// Maximum bytes that the words of one command may expand to.
const MAX_WORDS: usize = 2 * MAX_CMDLINE;

/// Runs a `grub.cfg` up to the point where GRUB would show its menu. `path` is its path in `fs`,
/// used to find `grubenv` in the same directory, sourced files and BLS entries.
///
/// There are no loops, so a word costs at most one expansion and `MAX_DEPTH` scans. Words and
/// bytes are charged to the budget of `fs`.
///
/// # Errors
/// `TooLarge` when the budget is used up or blocks nest too deep; errors from reading such a file.
pub fn parse(fs: &dyn GuestFs, path: &str, text: &str) -> Result<Menu> {
    let dir = dir_of(path);
    let mut run = Run {
        fs,
        vars: BTreeMap::new(),
        changes: Vec::new(),
        entries: Vec::new(),
        items: Vec::new(),
        item_of_entry: Vec::new(),
        open: None,
        counters: vec![0],
        sources: 0,
    };
    for (name, value) in [
        ("prefix", dir),
        ("config_directory", dir),
        ("root", "hd0,msdos1"),
        ("grub_platform", "pc"),
        ("grub_cpu", "i386"),
        ("menuentry_id_option", "--id"),
        ("feature_menuentry_id", "y"),
        ("feature_menuentry_options", "y"),
        ("feature_timeout_style", "y"),
        ("feature_default_font_path", "y"),
        ("feature_platform_search_hint", "y"),
        ("feature_all_video_module", "y"),
    ] {
        run.set(name, value.to_owned());
    }
    run.block(&lex(text, fs.budget())?, 0)?;
    Ok(run.finish())
}

/// An entry or submenu, and the names that refer to it on its level of the menu.
struct Item {
    /// Index in [`Run::items`] of the submenu that contains it.
    parent: Option<usize>,
    /// Its number on its level.
    index: usize,
    title: String,
    id: Option<String>,
}

struct Run<'a> {
    fs: &'a dyn GuestFs,
    vars: BTreeMap<String, String>,
    /// Previous values of the variables that an entry or submenu has changed, oldest first. They
    /// are restored at its end.
    changes: Vec<(String, Option<String>)>,
    entries: Vec<MenuEntry>,
    /// Entries and submenus, in the order in which they begin.
    items: Vec<Item>,
    /// For each entry, its index in `items`.
    item_of_entry: Vec<usize>,
    /// The innermost open item.
    open: Option<usize>,
    /// For each open level, the number of entries and submenus so far.
    counters: Vec<usize>,
    sources: usize,
}

impl Run<'_> {
    fn set(&mut self, name: &str, mut value: String) {
        if value.len() > MAX_VALUE || name.len() > MAX_VALUE {
            value = String::new();
        }
        if self.vars.len() < MAX_VARIABLES || self.vars.contains_key(name) {
            let before = self.vars.insert(name.to_owned(), value);
            self.changed(name, before);
        }
    }

    fn unset(&mut self, name: &str) {
        let before = self.vars.remove(name);
        self.changed(name, before);
    }

    fn changed(&mut self, name: &str, before: Option<String>) {
        if self.open.is_some() {
            self.changes.push((name.to_owned(), before));
        }
    }

    /// Undoes all variable changes but the first `keep`.
    fn restore(&mut self, keep: usize) {
        for (name, before) in self.changes.drain(keep..).rev() {
            match before {
                Some(value) => self.vars.insert(name, value),
                None => self.vars.remove(&name),
            };
        }
    }

    fn get(&self, name: &str) -> &str {
        self.vars.get(name).map_or("", String::as_str)
    }

    /// Expands words; an unquoted variable is split at blanks, and is dropped if empty.
    fn expand(&self, tokens: &[Token]) -> Result<Vec<String>> {
        let mut words = Vec::new();
        let mut total = 0;
        let mut read = 0;
        for token in tokens {
            let Token::Word(parts) = token else { continue };
            let mut word: Option<String> = None;
            for part in parts {
                match *part {
                    Part::Text(text, _) => {
                        read += text.len();
                        word.get_or_insert_default().push_str(text);
                    }
                    Part::Variable(name, true) => {
                        read += self.get(name).len();
                        word.get_or_insert_default().push_str(self.get(name));
                    }
                    Part::Variable(name, false) => {
                        read += self.get(name).len();
                        for (i, piece) in self.get(name).split_ascii_whitespace().enumerate() {
                            if i > 0 {
                                words.extend(word.take());
                            }
                            word.get_or_insert_default().push_str(piece);
                        }
                    }
                }
                total += word.as_ref().map_or(0, String::len);
                if total > MAX_WORDS || read > MAX_WORDS {
                    break;
                }
            }
            words.extend(word.filter(|_| total <= MAX_WORDS));
            if total > MAX_WORDS || read > MAX_WORDS {
                break;
            }
        }
        self.fs.budget().charge(Cost::MenuBytes, read as u64)?;
        self.fs.budget().charge(Cost::MenuWords, words.len() as u64)?;
        Ok(words)
    }

    /// Runs the commands of a block, interprets `if` and skips functions and loops.
    fn block(&mut self, tokens: &[Token], depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            let message = format!("blocks are nested more than {MAX_DEPTH} deep");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at] == Token::End {
                at += 1;
                continue;
            }
            if self.entries.len() >= MAX_ENTRIES {
                return Ok(());
            }
            match tokens[at].keyword() {
                Some("function") => at = self.skip_braces(tokens, at).1,
                Some("while" | "until" | "for") => {
                    at = matching(tokens, at, &["while", "until", "for"], "done");
                }
                Some("if") => {
                    let end = matching(tokens, at, &["if"], "fi");
                    self.conditional(&tokens[at + 1..end.saturating_sub(1).max(at + 1)], depth)?;
                    at = end;
                }
                Some(kind @ ("menuentry" | "submenu")) => {
                    let (open, end) = self.skip_braces(tokens, at);
                    let words = self.expand(&tokens[at + 1..open])?;
                    let body = &tokens
                        [(open + 1).min(end)..end.saturating_sub(1).max((open + 1).min(end))];
                    self.menu_item(kind == "submenu", words, body, depth)?;
                    at = end;
                }
                _ => {
                    let end = end_of_command(tokens, at);
                    let words = self.expand(&tokens[at..end])?;
                    self.command(&words, depth)?;
                    at = end;
                }
            }
        }
        Ok(())
    }

    /// Index of the opening brace of a block (or of the end of its command, if there is none), and
    /// index of what follows the block.
    fn skip_braces(&self, tokens: &[Token], at: usize) -> (usize, usize) {
        let open = (at..tokens.len())
            .find(|i| tokens[*i].keyword() == Some("{") || tokens[*i] == Token::End)
            .unwrap_or(tokens.len());
        // The brace of a function may be on the next line.
        let open = (open..tokens.len()).find(|i| tokens[*i] != Token::End).unwrap_or(tokens.len());
        if tokens.get(open).and_then(Token::keyword) != Some("{") {
            return (open, open.max(at + 1));
        }
        (open, matching(tokens, open, &["{"], "}"))
    }

    /// Interprets the inside of `if … fi`.
    fn conditional(&mut self, tokens: &[Token], depth: usize) -> Result<()> {
        // Split at the keywords of this level: condition, then-block, condition, …, else-block.
        let mut cuts = vec![(0, "if")];
        let (mut level, mut start_of_command) = (0usize, true);
        for (i, token) in tokens.iter().enumerate() {
            match token.keyword() {
                Some("if") if start_of_command => level += 1,
                Some("fi") if start_of_command => level = level.saturating_sub(1),
                Some("then") if level == 0 && start_of_command => cuts.push((i, "then")),
                Some("elif") if level == 0 && start_of_command => cuts.push((i, "elif")),
                Some("else") if level == 0 && start_of_command => cuts.push((i, "else")),
                _ => {}
            }
            start_of_command =
                *token == Token::End || matches!(token.keyword(), Some("then" | "else" | "{"));
        }
        let mut holds = false;
        for (n, (at, kind)) in cuts.iter().enumerate() {
            let end = cuts.get(n + 1).map_or(tokens.len(), |c| c.0);
            let inside = &tokens[if *kind == "if" { 0 } else { (at + 1).min(end) }..end];
            match *kind {
                "then" if holds => return self.block(inside, depth + 1),
                "else" => return self.block(inside, depth + 1),
                "if" | "elif" => {
                    let words = self.expand(inside)?;
                    holds = condition::holds(self.fs, &words);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn menu_item(
        &mut self,
        is_submenu: bool,
        words: Vec<String>,
        body: &[Token],
        depth: usize,
    ) -> Result<()> {
        let (mut title, mut id) = (None, None);
        let mut it = words.into_iter();
        while let Some(word) = it.next() {
            match word.as_str() {
                "--class" | "--users" | "--hotkey" | "--source" => _ = it.next(),
                "--id" => id = it.next(),
                "--unrestricted" => {}
                w => {
                    if let Some(value) = w.strip_prefix("--id=") {
                        id = Some(value.to_owned());
                    } else if !w.starts_with("--") && title.is_none() {
                        title = Some(word);
                    }
                }
            }
        }
        let outer = self.begin_item(title.unwrap_or_default(), id);
        let before = self.changes.len();
        if is_submenu {
            self.counters.push(0);
            self.block(body, depth + 1)?;
            self.counters.pop();
        } else {
            self.push_entry(MenuEntry::default())?;
            self.block(body, depth + 1)?;
        }
        self.restore(before);
        self.open = outer;
        Ok(())
    }

    /// Opens an item on the current level; returns the enclosing open item.
    fn begin_item(&mut self, title: String, id: Option<String>) -> Option<usize> {
        // The stack of counters is never empty: it starts with one, and each submenu restores it.
        let index = self.counters.last().copied().unwrap_or(0);
        if let Some(counter) = self.counters.last_mut() {
            *counter += 1;
        }
        let outer = self.open;
        self.open = Some(self.items.len());
        self.items.push(Item { parent: outer, index, title, id });
        outer
    }

    /// The items that enclose item `at`, outermost first, followed by the item itself.
    fn path_to(&self, at: Option<usize>) -> Vec<&Item> {
        let up = |item: &&Item| item.parent.map(|at| &self.items[at]);
        let mut path: Vec<&Item> =
            std::iter::successors(at.map(|at| &self.items[at]), up).collect();
        path.reverse();
        path
    }

    /// Adds the entry for the open item.
    fn push_entry(&mut self, mut entry: MenuEntry) -> Result<()> {
        let Some(open) = self.open else { return Ok(()) };
        let titles: Vec<&str> =
            self.path_to(Some(open)).iter().map(|item| item.title.as_str()).collect();
        let len: usize = titles.iter().map(|title| title.len()).sum();
        self.fs.budget().charge(Cost::MenuBytes, len as u64)?;
        entry.title = bounded(titles.join(">"));
        entry.id = self.items[open].id.clone();
        self.entries.push(entry);
        self.item_of_entry.push(open);
        Ok(())
    }

    fn command(&mut self, words: &[String], depth: usize) -> Result<()> {
        let Some((name, args)) = words.split_first() else { return Ok(()) };
        match name.as_str() {
            "set" | "export" => {
                for (key, value) in args.iter().filter_map(|a| a.split_once('=')) {
                    self.set(key, value.to_owned());
                }
            }
            "unset" => args.iter().for_each(|a| self.unset(a)),
            "load_env" => self.load_env(args)?,
            "source" | "." | "configfile" | "normal" => {
                if let Some(path) = args.first() {
                    self.source(strip_device(path), depth)?;
                }
            }
            "blscfg" => self.blscfg()?,
            _ if self.open.is_none() => {
                if let Some((key, value)) = name.split_once('=') {
                    self.set(key, value.to_owned());
                }
            }
            _ => self.entry_command(name, args),
        }
        Ok(())
    }

    fn entry_command(&mut self, name: &str, args: &[String]) {
        let options = args.iter().take_while(|a| a.starts_with("--")).count();
        let Some((path, rest)) = args[options..].split_first() else { return };
        let Some(entry) = self.entries.last_mut() else { return };
        let path = strip_device(path).to_owned();
        match name {
            "linux" | "linux16" | "linuxefi" => {
                entry.hypervisor = false;
                entry.kernel = path;
                entry.cmdline = join(rest);
            }
            "initrd" | "initrd16" | "initrdefi" => {
                entry.initrds =
                    args[options..].iter().map(|p| strip_device(p).to_owned()).collect();
            }
            // A hypervisor's first module is the dom0 kernel, the second the initrd.
            "module" | "module2" | "xen_module" => {
                if !entry.hypervisor {
                    // 20_linux_xen writes a placeholder instead of the file name; Xen drops it.
                    let skip = usize::from(rest.first().is_some_and(|w| w == "placeholder"));
                    entry.hypervisor = true;
                    entry.kernel = path;
                    entry.cmdline = join(&rest[skip..]);
                    entry.initrds.clear();
                } else if entry.initrds.is_empty() {
                    entry.initrds.push(path);
                }
            }
            _ => {}
        }
    }

    fn load_env(&mut self, args: &[String]) -> Result<()> {
        let file = args.iter().position(|a| matches!(a.as_str(), "-f" | "--file"));
        let path = match file.and_then(|i| args.get(i + 1)) {
            Some(path) => strip_device(path).to_owned(),
            None => format!("{}/grubenv", self.get("prefix")),
        };
        let Some(text) = read_optional(self.fs, &path)? else { return Ok(()) };
        for (name, value) in parse_env(&text) {
            // GRUB clears next_entry after booting it. Nothing is written here, so the same entry
            // would boot every time.
            if name != "next_entry" {
                self.set(name, value);
            }
        }
        Ok(())
    }

    fn source(&mut self, path: &str, depth: usize) -> Result<()> {
        if self.sources >= MAX_SOURCES {
            return Ok(());
        }
        self.sources += 1;
        match read_optional(self.fs, path)? {
            Some(text) => self.block(&lex(&text, self.fs.budget())?, depth + 1),
            None => Ok(()),
        }
    }

    fn blscfg(&mut self) -> Result<()> {
        for dir in ["/boot/loader/entries", "/loader/entries"] {
            if !self.fs.stat(dir).is_ok_and(|s| s.kind == FileKind::Dir) {
                continue;
            }
            let vars = &self.vars;
            let entries = bls::read_entries(self.fs, dir, &|name| {
                let fallback =
                    if name == "kernelopts" { vars.get("default_kernelopts") } else { None };
                vars.get(name).or(fallback).cloned()
            })?;
            for entry in entries {
                if self.entries.len() >= MAX_ENTRIES {
                    return Ok(());
                }
                let outer = self.begin_item(entry.title.clone(), entry.id.clone());
                self.push_entry(entry)?;
                self.open = outer;
            }
            return Ok(());
        }
        Ok(())
    }

    fn finish(self) -> Menu {
        let mut menu = Menu::default();
        let wanted = self.get("default").to_owned();
        match self.find(&wanted) {
            Some(index) => menu.default = index,
            None if wanted.is_empty() => {}
            None => menu.notes.push(format!(
                "the guest's default boot entry \"{}\" is not in its menu; the first is taken",
                wanted.escape_debug()
            )),
        }
        // Fallback entries are separated by blanks, so they can only be numbers and ids.
        menu.fallback =
            self.get("fallback").split_whitespace().filter_map(|w| self.find(w)).collect();
        menu.entries = self.entries;
        menu
    }

    /// The entry that `default` names: a number, title or id for each menu level, separated by `>`
    /// (a `>` within a title is doubled).
    fn find(&self, wanted: &str) -> Option<usize> {
        if wanted.is_empty() {
            return None;
        }
        let path = split_path(wanted);
        let hit = |item: &Item, name: &str| match name.parse::<usize>() {
            Ok(n) => item.index == n,
            Err(_) => item.title == name || item.id.as_deref() == Some(name),
        };
        let is_full = |at: &usize| {
            let items = self.path_to(Some(*at));
            items.len() >= path.len() && path.iter().zip(items).all(|(name, item)| hit(item, name))
        };
        // A submenu's path alone refers to its first entry.
        self.item_of_entry.iter().position(is_full).or_else(|| match wanted.parse::<usize>() {
            // As in pygrub, a number counts flattened entries, and a title may be on any level.
            Ok(index) => Some(index).filter(|i| *i < self.entries.len()),
            Err(_) => {
                let leaf = path.last().filter(|l| l.parse::<usize>().is_err())?;
                self.item_of_entry.iter().position(|at| hit(&self.items[*at], leaf))
            }
        })
    }
}

#[cfg(test)]
mod tests;
