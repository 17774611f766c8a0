//! Helpers for the tests of steps.

use crate::adapt::devices::Devices;
use crate::adapt::step::Step;
use crate::edit::Draft;
use crate::edit::{Change, Edit, FileContent};
use crate::fs::MemFs;

/// The edits of one step.
pub fn raw_edits(fs: &MemFs, step: &Step, devices: &Devices) -> Vec<Edit> {
    let mut draft = Draft::new(fs);
    draft.begin(step.name);
    (step.draft)(&mut draft, devices).unwrap();
    draft.finish()
}

/// The edits of one step on a machine about which nothing is known, one line each, without
/// directories that had to be created.
pub fn edits(fs: &MemFs, step: &Step) -> Vec<String> {
    let edits = raw_edits(fs, step, &Devices::default());
    edits.iter().filter(|e| !matches!(e.change, Change::MakeDir(_))).map(in_a_line).collect()
}

fn in_a_line(edit: &Edit) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let path = &edit.path;
    match &edit.change {
        Change::Rewrite { new, .. } => format!("{path} = {}", text(new)),
        Change::Create { content: FileContent::Bytes(new), .. } => {
            format!("{path} = {}", text(new))
        }
        Change::Symlink { target } => format!("{path} -> {target}"),
        Change::Remove => format!("{path} removed"),
        other => panic!("{other:?}"),
    }
}

/// The filesystem after the edits.
pub fn applied(fs: MemFs, edits: &[Edit]) -> MemFs {
    edits.iter().fold(fs, |fs, edit| match &edit.change {
        Change::Rewrite { new, .. } => fs.file(&edit.path, new.clone()),
        Change::Create { content: FileContent::Bytes(new), .. } => fs.file(&edit.path, new.clone()),
        Change::Symlink { target } => fs.symlink(&edit.path, target),
        Change::Remove => fs.without(&edit.path),
        // `MemFs` creates parent directories by itself.
        Change::MakeDir(_) => fs,
        other => panic!("{other:?}"),
    })
}

/// Whether the step has edits, and none any more after they are made.
pub fn is_settled(fs: MemFs, step: &Step) -> bool {
    let devices = Devices::default();
    let edits = raw_edits(&fs, step, &devices);
    !edits.is_empty() && raw_edits(&applied(fs, &edits), step, &devices).is_empty()
}
