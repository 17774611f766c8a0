//! Helpers for the tests of the options.

use crate::Result;
use crate::edit::{Change, Draft, Edit, FileContent};
use crate::fs::MemFs;

/// The edits that `draft` makes in `fs`: each path with the file's new contents, `->` and the
/// target of a link, `/` for a directory, and nothing for a removed file.
pub fn drafted(
    fs: &MemFs,
    draft: impl FnOnce(&mut Draft) -> Result<()>,
) -> Result<Vec<(String, String)>> {
    let mut d = Draft::new(fs);
    draft(&mut d)?;
    let shown = |edit: Edit| {
        let text = match edit.change {
            Change::Rewrite { new: bytes, .. }
            | Change::Create { content: FileContent::Bytes(bytes), .. } => {
                String::from_utf8(bytes).expect("text")
            }
            Change::Create { content: FileContent::HostFile(path), .. } => {
                format!("<{}", path.display())
            }
            Change::Symlink { target } => format!("->{target}"),
            Change::MakeDir(_) => "/".into(),
            Change::Remove => String::new(),
        };
        (edit.path, text)
    };
    Ok(d.finish().into_iter().map(shown).collect())
}

/// The filesystem after the edits.
pub fn applied(fs: MemFs, edits: &[(String, String)]) -> MemFs {
    edits.iter().filter(|(_, text)| text != "/").fold(fs, |fs, (path, text)| {
        match text.strip_prefix("->") {
            Some(target) => fs.symlink(path, target),
            None => fs.file(path, text.as_str()),
        }
    })
}
