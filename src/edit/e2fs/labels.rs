//! SELinux labels of what is new: that of the directory which it is in, as Linux gives it by default.
//! Without one an enforcing guest's services may not read it.

use super::{Tools, quoted};
use crate::edit::{Change, Edit};
use crate::{Error, ErrorKind, Result};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The extended attribute with the label.
pub(super) const NAME: &str = "security.selinux";

/// Labels of directories, in files of this host.
#[derive(Default)]
pub(super) struct Labels {
    /// Where the files are; `None` when nothing is new.
    dir: Option<TempDir>,
    /// Directories that were there before, by the number that is their file's name.
    parents: Vec<String>,
    /// Directories that are new.
    made: Vec<String>,
}

impl Labels {
    /// Those of the directories that get something new.
    ///
    /// # Errors
    /// Those of making a temporary directory. A directory without a label, and a debugfs without the
    /// command (before e2fsprogs 1.43), are none.
    pub(super) fn of_parents(edits: &[Edit], tools: &Tools) -> Result<Self> {
        let mut labels = Self::default();
        for edit in edits.iter().filter(|edit| is_new(edit)) {
            if matches!(edit.change, Change::MakeDir(_)) {
                labels.made.push(edit.path.clone());
            }
            let parent = labels.above(&edit.path).to_owned();
            if !labels.parents.contains(&parent) {
                labels.parents.push(parent);
            }
        }
        if labels.parents.is_empty() {
            return Ok(labels);
        }
        let failed = |e| Error::io("cannot make a temporary directory", e);
        labels.dir = Some(TempDir::with_prefix("synthdisk-labels-").map_err(failed)?);
        let mut commands = String::new();
        for (i, parent) in labels.parents.iter().enumerate() {
            let file = labels.file(i).unwrap_or_default();
            // Writing to a String cannot fail.
            let _ = writeln!(commands, "ea_get -f {} {} {NAME}", shown(&file)?, quoted(parent)?);
        }
        // It complains of each directory that has none; the files tell which have.
        let _ = tools.debugfs(&["-c"], &commands);
        Ok(labels)
    }

    /// The file with the label for what `edit` makes, as debugfs takes its name; `None` when it makes
    /// nothing, or there is no label.
    pub(super) fn for_new(&self, edit: &Edit) -> Result<Option<String>> {
        let parent = self.above(&edit.path);
        let at = self.parents.iter().position(|p| p == parent).filter(|_| is_new(edit));
        let file = at.and_then(|at| self.file(at));
        file.filter(|f| f.metadata().is_ok_and(|m| m.len() > 0)).map(|f| shown(&f)).transpose()
    }

    /// The nearest directory above `path` that was there before.
    fn above<'a>(&self, path: &'a str) -> &'a str {
        let mut path = path;
        loop {
            path = match path.rsplit_once('/') {
                Some((parent, _)) if !parent.is_empty() => parent,
                _ => return "/",
            };
            if !self.made.iter().any(|made| made == path) {
                return path;
            }
        }
    }

    fn file(&self, number: usize) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.path().join(number.to_string()))
    }
}

fn is_new(edit: &Edit) -> bool {
    matches!(edit.change, Change::Create { .. } | Change::MakeDir(_) | Change::Symlink { .. })
}

/// The name of a file of this host as debugfs takes it.
fn shown(file: &Path) -> Result<String> {
    let what = "the directory for temporary files has a name that debugfs does not take";
    quoted(file.to_str().ok_or_else(|| Error::new(ErrorKind::Unsupported, what))?)
}
