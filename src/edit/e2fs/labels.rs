//! SELinux labels of new files: that of the parent directory, which is Linux's default. Without a
//! label, services of an enforcing guest may not be able to read them.

use super::inodes::Inodes;
use super::parents::Parents;
use super::script::{Script, quoted};
use super::tools::{HostFiles, Tools};
use crate::edit::{Change, Edit};
use crate::sandbox::ToolDir;
use crate::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// The extended attribute with the label.
pub(super) const NAME: &str = "security.selinux";

/// Labels of directories, in files of this host.
#[derive(Default)]
pub(super) struct Labels<'a> {
    /// Directory that contains the files; `None` when nothing is new.
    dir: Option<&'a ToolDir>,
    /// Directories that existed before; the index is the name of the file with the label.
    parents: Vec<String>,
}

impl<'a> Labels<'a> {
    /// The labels of the directories in which something new is created, stored in `dir`.
    ///
    /// # Errors
    /// Fails for a directory of the guest that is not known. A directory without a label gives none,
    /// and neither does a debugfs that lacks the command (before e2fsprogs 1.43).
    pub(super) fn of_parents(
        edits: &[Edit],
        parents: &Parents,
        inodes: &Inodes,
        tools: &Tools,
        dir: &'a ToolDir,
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
        labels.dir = Some(dir);
        let mut script = Script::default();
        for (i, parent) in labels.parents.iter().enumerate() {
            let file = shown(&labels.file(i).unwrap_or_default())?;
            script.push(format!("ea_get -f {file} <{}> {NAME}", inodes.of(parent)?.number))?;
        }
        // debugfs complains about each directory without a label; the files show which have one.
        let path = dir.path();
        let files = HostFiles { run_as: dir.run_as(), paths: vec![&path] };
        let _ = tools.debugfs(&["-c"], &script, &files);
        Ok(labels)
    }

    /// The file with the label for what `edit` creates, quoted for debugfs; `None` when it creates
    /// nothing, or when there is no label.
    pub(super) fn for_new(&self, edit: &Edit, parents: &Parents) -> Result<Option<String>> {
        let parent = parents.above(&edit.path);
        let at = self.parents.iter().position(|p| p == parent).filter(|_| is_new(edit));
        let file = at.and_then(|at| self.file(at));
        file.filter(|f| f.metadata().is_ok_and(|m| m.len() > 0)).map(|f| shown(&f)).transpose()
    }

    fn file(&self, number: usize) -> Option<PathBuf> {
        Some(self.dir?.path().join(format!("label-{number}")))
    }
}

fn is_new(edit: &Edit) -> bool {
    matches!(edit.change, Change::Create { .. } | Change::MakeDir(_) | Change::Symlink { .. })
}

/// The name of a file of this host, quoted for debugfs.
fn shown(file: &Path) -> Result<String> {
    let what = "the name of the directory for temporary files is not UTF-8";
    quoted(file.to_str().ok_or_else(|| Error::new(ErrorKind::Unsupported, what))?)
}
