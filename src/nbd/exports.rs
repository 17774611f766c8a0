//! The exports that clients can name.

use super::state::ServerState;
use super::target::Target;
use crate::export::{ExportSet, ExportedFile, STATUS_FILE, Status};
use parking_lot::Mutex;
use std::sync::Arc;

/// All exports: the files of the set, by the names that a mount would show, and the status.
#[derive(Debug)]
pub(super) struct Exports {
    files: Vec<ExportedFile>,
    targets: Vec<Arc<Target>>,
    status: Mutex<Option<Status>>,
    state: Arc<ServerState>,
}

impl Exports {
    /// The files of `set`; its status becomes visible with [`Exports::set_status`].
    pub fn new(set: &ExportSet, read_only: bool, state: ServerState) -> Self {
        let state = Arc::new(state);
        let target =
            |file: &ExportedFile| Arc::new(Target::of_file(file.clone(), read_only, &state));
        let targets = set.files.iter().map(target).collect();
        Self { files: set.files.clone(), targets, status: Mutex::default(), state }
    }

    /// What all targets share.
    pub fn state(&self) -> &ServerState {
        &self.state
    }

    pub fn set_status(&self, status: Status) {
        *self.status.lock() = Some(status);
    }

    /// The export called `name`. The one without a name is the first disk.
    pub fn find(&self, name: &str) -> Option<Arc<Target>> {
        match name {
            "" => self.targets.first().cloned(),
            STATUS_FILE => {
                let text = self.status.lock().as_ref()?.text(self.files.iter());
                Some(Arc::new(Target::of_text(STATUS_FILE, text)))
            }
            _ => self.targets.iter().find(|target| target.name == name).cloned(),
        }
    }

    /// The names that are listed.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().map(|target| target.name.as_str())
    }
}
