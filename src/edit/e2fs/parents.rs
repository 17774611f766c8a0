//! Directories of what is made or taken away.

use crate::edit::{Change, Edit};
use std::collections::BTreeSet;

/// The directories in which something is made or taken away.
pub(super) struct Parents<'a> {
    /// Directories that were there before.
    pub(super) existing: BTreeSet<&'a str>,
    /// Directories that are new.
    made: BTreeSet<&'a str>,
}

impl<'a> Parents<'a> {
    /// Those of `edits`.
    pub(super) fn of(edits: &'a [Edit]) -> Self {
        let made = |e: &'a Edit| matches!(e.change, Change::MakeDir(_)).then_some(&*e.path);
        let mut parents =
            Self { existing: BTreeSet::new(), made: edits.iter().filter_map(made).collect() };
        let changed = edits.iter().filter(|e| !matches!(e.change, Change::Rewrite { .. }));
        parents.existing = changed.map(|e| parents.above(&e.path)).collect();
        parents
    }

    /// The nearest directory above `path` that was there before.
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
