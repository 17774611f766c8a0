//! GRUB 2's `grub.cfg`: a small interpreter of the part of its script language that menus are made
//! with.
//!
//! Variables, `if`, `menuentry`, `submenu`, `source`, `load_env` and `blscfg` work; functions and
//! loops are skipped, other commands do nothing (and count as failed in an `if`). Source: GNU GRUB
//! manual, "Writing full configuration files directly" and "Commands".

mod condition;
mod words;

use std::collections::BTreeMap;

use self::words::{end_of_command, join, matching, parse_env, split_path};
use super::grub_script::{Part, Token, lex};
use super::{
    Entry, MAX_CMDLINE, MAX_ENTRIES, Menu, bls, bounded, dir_of, read_optional, strip_device,
};
use crate::Result;
use crate::fs::{FileKind, GuestFs};

/// How deep blocks and sourced files may nest.
const MAX_DEPTH: usize = 24;
/// How many files may be sourced in all.
const MAX_SOURCES: usize = 16;
/// How many commands may run in all.
const MAX_COMMANDS: usize = 100_000;
/// Most variables, and longest value of one in bytes.
const MAX_VARIABLES: usize = 256;
const MAX_VALUE: usize = 4096;
/// Most bytes that the words of one command may expand to.
const MAX_WORDS: usize = 2 * MAX_CMDLINE;

/// Runs a `grub.cfg` up to the point where GRUB would show its menu. `path` is its place in `fs`,
/// for `grubenv` beside it, sourced files and BLS entries.
///
/// # Errors
/// Only those of reading such a file.
pub fn parse(fs: &dyn GuestFs, path: &str, text: &str) -> Result<Menu> {
    let dir = dir_of(path);
    let mut run = Run {
        fs,
        vars: BTreeMap::new(),
        entries: Vec::new(),
        keys: Vec::new(),
        level: Vec::new(),
        counters: vec![0],
        commands: 0,
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
    run.block(&lex(text), 0)?;
    Ok(run.finish())
}

/// How an entry or submenu can be named on its level of the menu.
#[derive(Clone)]
struct Key {
    index: usize,
    title: String,
    id: Option<String>,
}

struct Run<'a> {
    fs: &'a dyn GuestFs,
    vars: BTreeMap<String, String>,
    entries: Vec<Entry>,
    /// For each entry, the keys of its submenus and its own.
    keys: Vec<Vec<Key>>,
    /// The keys of the submenus that are open.
    level: Vec<Key>,
    /// Per open level, how many entries and submenus it has so far.
    counters: Vec<usize>,
    commands: usize,
    sources: usize,
}

impl Run<'_> {
    fn set(&mut self, name: &str, mut value: String) {
        if value.len() > MAX_VALUE || name.len() > MAX_VALUE {
            value = String::new();
        }
        if self.vars.len() < MAX_VARIABLES || self.vars.contains_key(name) {
            self.vars.insert(name.to_owned(), value);
        }
    }

    fn get(&self, name: &str) -> &str {
        self.vars.get(name).map_or("", String::as_str)
    }

    /// Expands words; an unquoted variable is split at blanks, and vanishes if empty.
    fn expand(&self, tokens: &[Token]) -> Vec<String> {
        let mut words = Vec::new();
        let mut total = 0;
        for token in tokens {
            let Token::Word(parts) = token else { continue };
            let mut word: Option<String> = None;
            for part in parts {
                match part {
                    Part::Text(text, _) => word.get_or_insert_default().push_str(text),
                    Part::Variable(name, true) => {
                        word.get_or_insert_default().push_str(self.get(name))
                    }
                    Part::Variable(name, false) => {
                        for (i, piece) in self.get(name).split_ascii_whitespace().enumerate() {
                            if i > 0 {
                                words.extend(word.take());
                            }
                            word.get_or_insert_default().push_str(piece);
                        }
                    }
                }
                total += word.as_ref().map_or(0, String::len);
                if total > MAX_WORDS {
                    return words;
                }
            }
            words.extend(word);
        }
        words
    }

    /// Runs the commands of a block, on the way interpreting `if` and skipping functions and loops.
    fn block(&mut self, tokens: &[Token], depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Ok(());
        }
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at] == Token::End {
                at += 1;
                continue;
            }
            self.commands += 1;
            if self.commands > MAX_COMMANDS || self.entries.len() >= MAX_ENTRIES {
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
                    let words = self.expand(&tokens[at + 1..open]);
                    let body = &tokens
                        [(open + 1).min(end)..end.saturating_sub(1).max((open + 1).min(end))];
                    self.menu_item(kind == "submenu", &words, body, depth)?;
                    at = end;
                }
                _ => {
                    let end = end_of_command(tokens, at);
                    let words = self.expand(&tokens[at..end]);
                    self.command(&words, depth)?;
                    at = end;
                }
            }
        }
        Ok(())
    }

    /// Where the braces of a block open (or its command ends without), and what follows the block.
    fn skip_braces(&self, tokens: &[Token], at: usize) -> (usize, usize) {
        let open = (at..tokens.len())
            .find(|i| tokens[*i].keyword() == Some("{") || tokens[*i] == Token::End)
            .unwrap_or(tokens.len());
        // The brace of a function may stand on the next line.
        let open = (open..tokens.len()).find(|i| tokens[*i] != Token::End).unwrap_or(tokens.len());
        if tokens.get(open).and_then(Token::keyword) != Some("{") {
            return (open, open.max(at + 1));
        }
        (open, matching(tokens, open, &["{"], "}"))
    }

    /// The inside of `if … fi`.
    fn conditional(&mut self, tokens: &[Token], depth: usize) -> Result<()> {
        // Cut at the keywords of this level: condition, then-block, condition, …, else-block.
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
                    let words = self.expand(inside);
                    holds = self.test(&words);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn menu_item(
        &mut self,
        is_submenu: bool,
        words: &[String],
        body: &[Token],
        depth: usize,
    ) -> Result<()> {
        let (mut title, mut id) = (None, None);
        let mut it = words.iter();
        while let Some(word) = it.next() {
            match word.as_str() {
                "--class" | "--users" | "--hotkey" | "--source" => _ = it.next(),
                "--id" => id = it.next().cloned(),
                "--unrestricted" => {}
                w => {
                    if let Some(value) = w.strip_prefix("--id=") {
                        id = Some(value.to_owned());
                    } else if !w.starts_with("--") && title.is_none() {
                        title = Some(w.to_owned());
                    }
                }
            }
        }
        // The stack of counters is never empty: it starts with one and submenus put it back.
        let index = self.counters.last().copied().unwrap_or(0);
        if let Some(counter) = self.counters.last_mut() {
            *counter += 1;
        }
        self.level.push(Key { index, title: title.unwrap_or_default(), id });
        let outer = self.vars.clone();
        let result = if is_submenu {
            self.counters.push(0);
            let result = self.block(body, depth + 1);
            self.counters.pop();
            result
        } else {
            self.push_entry(Entry {
                id: self.level.last().and_then(|k| k.id.clone()),
                ..Entry::default()
            });
            self.block(body, depth + 1)
        };
        self.vars = outer;
        self.level.pop();
        result
    }

    /// Adds an entry with the keys of the current level.
    fn push_entry(&mut self, mut entry: Entry) {
        let titles: Vec<&str> = self.level.iter().map(|k| k.title.as_str()).collect();
        entry.title = bounded(titles.join(">"));
        self.entries.push(entry);
        self.keys.push(self.level.clone());
    }

    fn command(&mut self, words: &[String], depth: usize) -> Result<()> {
        let Some((name, args)) = words.split_first() else { return Ok(()) };
        match name.as_str() {
            "set" | "export" => {
                for (key, value) in args.iter().filter_map(|a| a.split_once('=')) {
                    self.set(key, value.to_owned());
                }
            }
            "unset" => args.iter().for_each(|a| _ = self.vars.remove(a)),
            "load_env" => self.load_env(args)?,
            "source" | "." | "configfile" | "normal" => {
                if let Some(path) = args.first() {
                    self.source(strip_device(path), depth)?;
                }
            }
            "blscfg" => self.blscfg()?,
            _ if self.level.is_empty() => {
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
            // The first module of a hypervisor is its dom0's kernel, the second the initrd.
            "module" | "module2" | "xen_module" => {
                if !entry.hypervisor {
                    // 20_linux_xen puts a word in place of the file name, which Xen drops.
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
            // GRUB clears next_entry when it has booted it. Nothing is written here, so it would
            // be booted for ever.
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
            Some(text) => self.block(&lex(&text), depth + 1),
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
                let index = self.counters.last().copied().unwrap_or(0);
                if let Some(counter) = self.counters.last_mut() {
                    *counter += 1;
                }
                self.level.push(Key { index, title: entry.title.clone(), id: entry.id.clone() });
                self.push_entry(entry);
                self.level.pop();
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
        // Entries are separated by blanks, so only numbers and ids can be meant.
        menu.fallback =
            self.get("fallback").split_whitespace().filter_map(|w| self.find(w)).collect();
        menu.entries = self.entries;
        menu
    }

    /// The entry that `default` names: per level of the menu a number, title or id, with `>`
    /// between the levels (doubled where a title has one).
    fn find(&self, wanted: &str) -> Option<usize> {
        if wanted.is_empty() {
            return None;
        }
        let path = split_path(wanted);
        let hit = |key: &Key, name: &str| match name.parse::<usize>() {
            Ok(n) => key.index == n,
            Err(_) => key.title == name || key.id.as_deref() == Some(name),
        };
        let full = |keys: &Vec<Key>| {
            keys.len() >= path.len() && path.iter().zip(keys).all(|(name, key)| hit(key, name))
        };
        // A submenu without a word on what is inside stands for its first entry.
        self.keys.iter().position(full).or_else(|| match wanted.parse::<usize>() {
            // As pygrub: a number counts flattened entries, a title may be anywhere.
            Ok(index) => Some(index).filter(|i| *i < self.entries.len()),
            Err(_) => {
                let leaf = path.last().filter(|l| l.parse::<usize>().is_err())?;
                self.keys.iter().position(|keys| keys.last().is_some_and(|key| hit(key, leaf)))
            }
        })
    }
}

#[cfg(test)]
mod tests;
