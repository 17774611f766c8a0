//! The guest's root filesystem as it would be after the edits so far.

use super::{Change, Edit, FileAccess, FileContent, MAX_FILE};
use crate::fs::{FileKind, GuestFs};

/// Maximum number of files that are examined in one directory.
const MOST_IN_DIR: usize = 300;

/// The view of the guest in which steps read files and record their changes. Paths are absolute; a
/// later step sees what an earlier one has changed.
pub struct Draft<'a> {
    root: &'a dyn GuestFs,
    step: &'static str,
    edits: Vec<Edit>,
}

impl<'a> Draft<'a> {
    /// An empty draft for the guest with this root filesystem.
    pub fn new(root: &'a dyn GuestFs) -> Self {
        Self { root, step: "", edits: Vec::new() }
    }

    /// Attribute the edits that follow to the step `name`.
    pub fn begin(&mut self, name: &'static str) {
        self.step = name;
    }

    /// The edits, in order.
    pub fn finish(self) -> Vec<Edit> {
        self.edits
    }

    /// The edits so far.
    pub fn edits(&self) -> &[Edit] {
        &self.edits
    }

    /// The filesystem without any edits.
    pub fn root(&self) -> &'a dyn GuestFs {
        self.root
    }

    /// Names in a directory of the guest, with drafted changes applied; empty when it does not
    /// exist.
    pub fn names(&self, dir: &str) -> Vec<String> {
        let mut names = self.root.read_dir(dir).unwrap_or_default();
        let dir = self.root.canonicalize(dir).unwrap_or_else(|_| self.settled(dir));
        for edit in &self.edits {
            match edit
                .path
                .strip_prefix(dir.trim_end_matches('/'))
                .and_then(|p| p.strip_prefix('/'))
            {
                Some(name) if !name.contains('/') => {
                    names.retain(|n| n != name);
                    if edit.change != Change::Remove {
                        names.push(name.to_owned());
                    }
                }
                _ => {}
            }
        }
        names.sort();
        names
    }

    /// Paths of the entries of a directory, like [`names`](Self::names): at most the first few
    /// hundred, and none that the tools that store edits cannot handle.
    pub fn paths(&self, dir: &str) -> Vec<String> {
        let mut names = self.names(dir);
        names.retain(|name| can_be_stored(name));
        names.iter().take(MOST_IN_DIR).map(|name| format!("{dir}/{name}")).collect()
    }

    /// Whether the path leads to something when symlinks are followed.
    pub fn exists(&self, path: &str) -> bool {
        match self.drafted(&self.settled(path)) {
            Some(edit) => edit.change != Change::Remove,
            None => self.root.stat(path).is_ok(),
        }
    }

    /// Whether something exists at the path, even a dangling symlink.
    pub fn is_there(&self, path: &str) -> bool {
        match self.drafted(&self.settled(path)) {
            Some(edit) => edit.change != Change::Remove,
            None => self.root.lstat(path).is_ok(),
        }
    }

    /// The text of a regular file; `None` when it does not exist or is too large, or when a symlink
    /// leads to a name that the tools that store edits cannot handle. Text that is not UTF-8 is
    /// read as Latin-1, which old guests have in comments.
    pub fn text(&self, path: &str) -> Option<String> {
        self.bytes(path).map(|bytes| decode(bytes).0)
    }

    fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        let path = self.root.canonicalize(path).unwrap_or_else(|_| self.settled(path));
        if !can_be_stored(&path) {
            return None;
        }
        match self.drafted(&path).map(|e| &e.change) {
            Some(Change::Rewrite { new, .. }) => Some(new.clone()),
            Some(Change::Create { content: FileContent::Bytes(bytes), .. }) => Some(bytes.clone()),
            Some(_) => None,
            None => self.root.read(&path, MAX_FILE).ok(),
        }
    }

    /// Replace the text of the regular file at `path` by the first half of what `edit` returns; the
    /// second half says why. Nothing happens if there is no such file or `edit` returns `None`.
    pub fn edit(&mut self, path: &str, edit: impl FnOnce(&str) -> Option<(String, String)>) {
        let Some((text, is_latin1)) = self.bytes(path).map(decode) else { return };
        if let Some((new, why)) = edit(&text) {
            self.rewrite(path, encode(new, is_latin1), why);
        }
    }

    /// New contents for a regular file. If it does not exist, it is created with mode `0644`.
    pub fn rewrite(&mut self, path: &str, new: impl Into<Vec<u8>>, why: impl Into<String>) {
        let (new, why) = (new.into(), why.into());
        let path = self.root.canonicalize(path).unwrap_or_else(|_| self.settled(path));
        if let Some(edit) = self.edits.iter_mut().rev().find(|e| e.path == path) {
            match &mut edit.change {
                Change::Rewrite { new: bytes, .. }
                | Change::Create { content: FileContent::Bytes(bytes), .. } => {
                    *bytes = new;
                    edit.why = format!("{}, {why}", edit.why);
                    return;
                }
                _ => {}
            }
        }
        match self.root.read(&path, MAX_FILE) {
            Ok(old) if old == new => {}
            Ok(old) => self.push(path, Change::Rewrite { old, new }, why),
            Err(_) => self.create(&path, FileContent::Bytes(new), FileAccess::root(0o644), why),
        }
    }

    /// A new regular file that replaces what is at `path`. Missing directories are created first.
    pub fn create(
        &mut self,
        path: &str,
        content: FileContent,
        access: FileAccess,
        why: impl Into<String>,
    ) {
        let path = self.make_room(path);
        self.push(path, Change::Create { content, access }, why.into());
    }

    /// A new symlink that replaces what is at `path`. Missing directories are created first.
    pub fn symlink(&mut self, path: &str, target: &str, why: impl Into<String>) {
        let path = self.make_room(path);
        self.push(path, Change::Symlink { target: target.to_owned() }, why.into());
    }

    /// Remove a regular file or symlink, if there is one.
    pub fn remove(&mut self, path: &str, why: impl Into<String>) {
        if self.is_there(path) {
            let path = self.settled(path);
            self.push(path, Change::Remove, why.into());
        }
    }

    /// Create a directory and the directories above it, as far as they are missing; existing ones
    /// stay as they are.
    pub fn make_dir(&mut self, path: &str, access: FileAccess) {
        if path.len() <= 1 || self.exists(path) {
            return;
        }
        if let Some((parent, _)) = path.trim_end_matches('/').rsplit_once('/') {
            self.make_dir(parent, FileAccess::root(0o755));
        }
        let path = self.settled(path);
        self.push(path, Change::MakeDir(access), "new directory".into());
    }

    /// Make sure that nothing is at `path` and that its parent directory exists; returns the path
    /// to use.
    fn make_room(&mut self, path: &str) -> String {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.make_dir(parent, FileAccess::root(0o755));
        }
        let settled = self.settled(path);
        match self.edits.iter().rposition(|e| e.path == settled) {
            // A file that was only drafted need not be removed.
            Some(at) if self.root.lstat(&settled).is_err() => drop(self.edits.remove(at)),
            _ => {
                let there = self.root.lstat(&settled);
                if there.is_ok_and(|s| s.kind != FileKind::Dir) && self.is_there(&settled) {
                    self.push(settled.clone(), Change::Remove, "makes room".into());
                }
            }
        }
        settled
    }

    /// `path` with its parent directory resolved as far as it exists; the last component stays.
    fn settled(&self, path: &str) -> String {
        let path = path.trim_end_matches('/');
        let Some((parent, name)) = path.rsplit_once('/') else { return path.to_owned() };
        if parent.is_empty() {
            return format!("/{name}");
        }
        let parent = self.root.canonicalize(parent).unwrap_or_else(|_| self.settled(parent));
        format!("{}/{name}", parent.trim_end_matches('/'))
    }

    /// The last edit of `path`, which must be settled.
    fn drafted(&self, path: &str) -> Option<&Edit> {
        self.edits.iter().rev().find(|e| e.path == path)
    }

    fn push(&mut self, path: String, change: Change, why: String) {
        self.edits.push(Edit { path, change, why, step: self.step });
    }
}

/// Maximum length of a path that is edited, in bytes.
const MAX_PATH: usize = 900;

/// Whether the tools that store edits can handle `path`. A symlink may lead to any name.
pub fn can_be_stored(path: &str) -> bool {
    path.len() <= MAX_PATH && !path.contains(|c: char| matches!(c, '"' | '\\') || c.is_control())
}

/// The text, and whether it was Latin-1.
fn decode(bytes: Vec<u8>) -> (String, bool) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, false),
        Err(e) => (e.as_bytes().iter().map(|b| char::from(*b)).collect(), true),
    }
}

/// The bytes that [`decode`] reads as `text`. A character that Latin-1 lacks becomes `?`; no step
/// writes one.
fn encode(text: String, is_latin1: bool) -> Vec<u8> {
    match is_latin1 {
        false => text.into_bytes(),
        true => text.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    fn drafted(fs: &MemFs, work: impl FnOnce(&mut Draft)) -> Vec<(String, Change)> {
        let mut draft = Draft::new(fs);
        work(&mut draft);
        draft.finish().into_iter().map(|e| (e.path, e.change)).collect()
    }

    fn create(text: &str) -> Change {
        let content = FileContent::Bytes(text.into());
        Change::Create { content, access: FileAccess::root(0o644) }
    }

    #[test]
    fn later_steps_see_earlier_ones() {
        let fs = MemFs::new().file("/etc/a", "one").symlink("/etc/link", "a");
        let edits = drafted(&fs, |d| {
            d.edit("/etc/link", |t| Some((format!("{t} two"), "x".into())));
            assert_eq!(d.text("/etc/a").unwrap(), "one two");
            d.edit("/etc/a", |t| Some((format!("{t} three"), "y".into())));
            d.edit("/etc/none", |_| Some((String::new(), "z".into())));
        });
        let (old, new) = (b"one".to_vec(), b"one two three".to_vec());
        assert_eq!(edits, [("/etc/a".into(), Change::Rewrite { old, new })]);
    }

    /// A hostile guest's symlink must not prevent the other edits.
    #[test]
    fn names_that_no_tool_takes_are_passed_over() {
        let evil = "/real/x\"\nrm /etc/fstab\n";
        let long = format!("/{}", "x/".repeat(522));
        let fs = MemFs::new().file(evil, "one").symlink("/etc/a", evil).file("/etc/b", "one");
        let fs = fs.file(&format!("{long}x"), "one").symlink("/etc/c", &format!("{long}x"));
        let edits = drafted(&fs, |d| {
            for path in ["/etc/a", "/etc/b", "/etc/c"] {
                d.edit(path, |_| Some(("two".into(), "x".into())));
            }
        });
        assert_eq!(edits.iter().map(|e| e.0.as_str()).collect::<Vec<_>>(), ["/etc/b"]);
    }

    #[test]
    fn latin1_stays() {
        let fs = MemFs::new().file("/etc/a", b"# L\xf6sung\nx\n".to_vec());
        let edits = drafted(&fs, |d| d.edit("/etc/a", |t| Some((t.replace('x', "y"), "".into()))));
        let Change::Rewrite { new, .. } = &edits[0].1 else { panic!() };
        assert_eq!(new, b"# L\xf6sung\ny\n");
    }

    #[test]
    fn new_files_get_their_directories() {
        let fs = MemFs::new().file("/usr/lib/x", "").symlink("/lib", "usr/lib");
        let edits = drafted(&fs, |d| {
            d.rewrite("/lib/new/deep/file", "1", "why");
            d.rewrite("/lib/new/deep/file", "2", "why");
            d.symlink("/lib/new/link", "deep", "why");
            assert!(d.exists("/lib/new/deep") && d.is_there("/lib/new/link"));
            assert_eq!(d.names("/lib/new/deep"), ["file"]);
            assert_eq!(d.names("/lib"), ["new", "x"]);
            assert_eq!(d.paths("/lib/new"), ["/lib/new/deep", "/lib/new/link"]);
        });
        let dir = || Change::MakeDir(FileAccess::root(0o755));
        let paths: Vec<&str> = edits.iter().map(|e| e.0.as_str()).collect();
        let new = "/usr/lib/new";
        assert_eq!(
            paths,
            [new, "/usr/lib/new/deep", "/usr/lib/new/deep/file", "/usr/lib/new/link"]
        );
        assert_eq!((&edits[0].1, &edits[1].1), (&dir(), &dir()));
        assert_eq!(edits[2].1, create("2"));
    }

    #[test]
    fn names_that_no_tool_takes() {
        let fs = MemFs::new().file("/etc/a b", "").file("/etc/a\\x2db", "").file("/etc/\"c\"", "");
        drafted(&fs, |d| assert_eq!(d.paths("/etc"), ["/etc/a b"]));
    }

    #[test]
    fn what_is_in_the_way_goes() {
        let fs = MemFs::new().file("/etc/a", "1").symlink("/etc/b", "nowhere");
        let edits = drafted(&fs, |d| {
            d.symlink("/etc/a", "/dev/null", "why");
            d.create("/etc/b", FileContent::Bytes("2".into()), FileAccess::root(0o644), "why");
            d.remove("/etc/c", "why");
            assert!(!d.is_there("/etc/c"));
        });
        let link = Change::Symlink { target: "/dev/null".into() };
        let (a, b) = ("/etc/a".to_owned(), "/etc/b".to_owned());
        let expected =
            [(a.clone(), Change::Remove), (a, link), (b.clone(), Change::Remove), (b, create("2"))];
        assert_eq!(edits, expected);
    }
}
