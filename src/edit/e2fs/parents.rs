//! Directories in which files are created or removed.

use crate::edit::{Change, Edit};
use std::collections::BTreeSet;

/// The directories in which something is created or removed.
pub(super) struct Parents<'a> {
    /// Directories that existed before.
    pub(super) existing: BTreeSet<&'a str>,
    /// Directories that are new.
    made: BTreeSet<&'a str>,
}

impl<'a> Parents<'a> {
    /// The directories of `edits`.
    pub(super) fn of(edits: &'a [Edit]) -> Self {
        let made = |e: &'a Edit| matches!(e.change, Change::MakeDir(_)).then_some(&*e.path);
        let mut parents =
            Self { existing: BTreeSet::new(), made: edits.iter().filter_map(made).collect() };
        let changed = edits.iter().filter(|e| !matches!(e.change, Change::Rewrite { .. }));
        parents.existing = changed.map(|e| parents.above(&e.path)).collect();
        parents
    }

    /// The nearest directory above `path` that existed before.
    pub(super) fn above<'p>(&self, path: &'p str) -> &'p str {
        let mut path = path;
        loop {
            path = match path.rsplit_once('/') {
                Some((parent, _)) if !parent.is_empty() => parent,
                _ => return "/",
            };
            if !self.made.contains(path) {
                return path;
            }
        }
    }
}
