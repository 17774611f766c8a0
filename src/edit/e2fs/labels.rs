//! SELinux labels of new files: that of the directory which they are in, as Linux gives it by default.
//! Without one an enforcing guest's services may not read them.

use super::inodes::Inodes;
use super::parents::Parents;
use super::script::{Script, quoted};
use super::tools::Tools;
use crate::edit::{Change, Edit};
use crate::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The extended attribute with the label.
pub(super) const NAME: &str = "security.selinux";

/// Labels of directories, in files of this host.
#[derive(Default)]
pub(super) struct Labels {
    /// Where the files are; `None` when nothing is new.
    dir: Option<TempDir>,
    /// Directories that were there before; the position is the name of the file with the label.
    parents: Vec<String>,
}

impl Labels {
    /// Those of the directories that get something new.
    ///
    /// # Errors
    /// Those of making a temporary directory. A directory without a label, and a debugfs without the
    /// command (before e2fsprogs 1.43), give none.
    pub(super) fn of_parents(
        edits: &[Edit],
        parents: &Parents,
        inodes: &Inodes,
        tools: &Tools,
    ) -> Result<Self> {
        let mut labels = Self::default();
        for edit in edits.iter().filter(|edit| is_new(edit)) {
            let parent = parents.above(&edit.path).to_owned();
            if !labels.parents.contains(&parent) {
                labels.parents.push(parent);
            }
        }
        if labels.parents.is_empty() {
            return Ok(labels);
        }
        let failed = |e| Error::io("cannot make a temporary directory", e);
        labels.dir = Some(TempDir::with_prefix("synthdisk-labels-").map_err(failed)?);
        let mut script = Script::default();
        for (i, parent) in labels.parents.iter().enumerate() {
            let file = shown(&labels.file(i).unwrap_or_default())?;
            script.push(format!("ea_get -f {file} <{}> {NAME}", inodes.of(parent)?.number))?;
        }
        // It complains of each directory that has none; the files tell which have.
        let _ = tools.debugfs(&["-c"], &script);
        Ok(labels)
    }

    /// The file with the label for what `edit` makes, as debugfs takes its name; `None` when it makes
    /// nothing, or there is no label.
    pub(super) fn for_new(&self, edit: &Edit, parents: &Parents) -> Result<Option<String>> {
        let parent = parents.above(&edit.path);
        let at = self.parents.iter().position(|p| p == parent).filter(|_| is_new(edit));
        let file = at.and_then(|at| self.file(at));
        file.filter(|f| f.metadata().is_ok_and(|m| m.len() > 0)).map(|f| shown(&f)).transpose()
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
    let what = "the name of the directory for temporary files is not UTF-8";
    quoted(file.to_str().ok_or_else(|| Error::new(ErrorKind::Unsupported, what))?)
}
