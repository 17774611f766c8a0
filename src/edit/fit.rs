//! Which edits fit into a filesystem of ext2/3/4 that is full or nearly so.
//!
//! Edits that belong together are made together or not at all: what makes room for a file and the file,
//! a new directory and what is created in it. Every other edit stands alone.

use super::{Change, Edit, FileContent};
use crate::fs::ext4::room::Room;

/// Longest symlink target that takes no block, in bytes.
const FAST_SYMLINK: usize = 60;

/// What edits take of a filesystem.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    inodes: u64,
    blocks: u64,
}

impl Cost {
    fn of(edit: &Edit, block_size: u64) -> Self {
        let blocks = |len: usize| (len as u64).div_ceil(block_size);
        match &edit.change {
            Change::Create { content: FileContent::Bytes(bytes), .. } => {
                Self { inodes: 1, blocks: blocks(bytes.len()) }
            }
            Change::Create { .. } => Self { inodes: 1, blocks: 1 },
            Change::MakeDir(_) => Self { inodes: 1, blocks: 1 },
            Change::Symlink { target } => {
                Self { inodes: 1, blocks: u64::from(target.len() >= FAST_SYMLINK) }
            }
            Change::Rewrite { old, new } => {
                let more = blocks(new.len()).saturating_sub(blocks(old.len()));
                Self { inodes: 0, blocks: more }
            }
            Change::Remove => Self::default(),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self { inodes: self.inodes + other.inodes, blocks: self.blocks + other.blocks }
    }
}

/// The edits that fit, in their order, and a sentence for each group that does not. Without a `room`,
/// nothing is known, and all may fit.
pub fn fit(edits: Vec<Edit>, room: Option<Room>) -> (Vec<Edit>, Vec<String>) {
    let Some(room) = room.filter(|room| room.block_size > 0) else { return (edits, Vec::new()) };
    let groups = groups(&edits);
    let mut left =
        Cost { inodes: room.free_inodes.into(), blocks: room.free_bytes / room.block_size };
    let mut fits = vec![true; edits.len()];
    let mut left_out = Vec::new();
    for group in 0..edits.len() {
        let members = || (0..edits.len()).filter(|i| groups[*i] == group);
        let costs = members().map(|i| Cost::of(&edits[i], room.block_size));
        let cost = costs.fold(Cost::default(), Cost::plus);
        let lacks = match () {
            () if cost.inodes > left.inodes => "no free inode",
            () if cost.blocks > left.blocks => "no free block",
            () => {
                left =
                    Cost { inodes: left.inodes - cost.inodes, blocks: left.blocks - cost.blocks };
                continue;
            }
        };
        members().for_each(|i| fits[i] = false);
        let why = members().next_back().map(|i| (edits[i].path.as_str(), edits[i].why.as_str()));
        let (path, why) = why.unwrap_or_default();
        left_out.push(format!("{path} is left as it is: its filesystem has {lacks} ({why})"));
    }
    let kept = edits.into_iter().zip(fits).filter(|(_, fits)| *fits).map(|(edit, _)| edit);
    (kept.collect(), left_out)
}

/// The group of each edit: the index of its first member.
pub(super) fn groups(edits: &[Edit]) -> Vec<usize> {
    let mut out: Vec<usize> = Vec::new();
    for (i, edit) in edits.iter().enumerate() {
        let belongs = |earlier: &Edit| {
            let below = || {
                let rest = edit.path.strip_prefix(&earlier.path);
                rest.is_some_and(|rest| rest.starts_with('/'))
            };
            earlier.path == edit.path || (matches!(earlier.change, Change::MakeDir(_)) && below())
        };
        let first = edits[..i].iter().position(belongs);
        out.push(first.map_or(i, |first| out[first]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edit::FileAccess;

    fn edit(path: &str, change: Change) -> Edit {
        Edit { path: path.into(), change, why: "why".into(), step: "fstab" }
    }

    fn rewrite(path: &str, old: usize, new: usize) -> Edit {
        edit(path, Change::Rewrite { old: vec![1; old], new: vec![2; new] })
    }

    fn create(path: &str, len: usize) -> Edit {
        let content = FileContent::Bytes(vec![1; len]);
        edit(path, Change::Create { content, access: FileAccess::root(0o644) })
    }

    fn link(path: &str) -> Edit {
        edit(path, Change::Symlink { target: "/dev/null".into() })
    }

    fn paths(inodes: u32, blocks: u64, edits: &[Edit]) -> (Vec<String>, usize) {
        let room = Room { block_size: 1024, free_bytes: blocks * 1024, free_inodes: inodes };
        let (kept, left_out) = fit(edits.to_vec(), Some(room));
        (kept.into_iter().map(|e| e.path).collect(), left_out.len())
    }

    #[test]
    fn what_does_not_fit_is_left_out_alone() {
        let dir = edit("/d", Change::MakeDir(FileAccess::root(0o755)));
        let edits = [
            rewrite("/etc/fstab", 100, 1000),
            create("/big", 5000),
            dir,
            create("/d/x", 10),
            edit("/link", Change::Remove),
            link("/link"),
            rewrite("/grows", 1000, 1030),
        ];
        assert_eq!(paths(9, 99, &edits).0.len(), edits.len());
        let (kept, left_out) = paths(0, 99, &edits);
        assert_eq!((kept, left_out), (vec!["/etc/fstab".into(), "/grows".into()], 3));
        assert_eq!(paths(2, 99, &edits).0, ["/etc/fstab", "/big", "/link", "/link", "/grows"]);
        assert_eq!(paths(9, 0, &edits).0, ["/etc/fstab", "/link", "/link"]);
        assert_eq!(paths(9, 1, &edits).0, ["/etc/fstab", "/link", "/link", "/grows"]);
        assert_eq!(fit(edits.to_vec(), None).0.len(), edits.len());
        let (_, said) =
            fit(vec![link("/x")], Some(Room { block_size: 1024, free_bytes: 0, free_inodes: 0 }));
        assert_eq!(said, ["/x is left as it is: its filesystem has no free inode (why)"]);
    }
}
