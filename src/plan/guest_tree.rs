//! All files of a guest, over its partitions and logical volumes, as its own fstab mounts them.

use super::root_resolver::RootResolver;
use crate::fs::{GuestTree, Mounted};
use crate::guest::mounts::mounts;

/// The root filesystem `root`, which is partition `index` of `resolver`, with the filesystems that
/// its fstab mounts on it. `open` opens a partition by its index; what it cannot open is left out.
pub(super) fn guest_tree<'a>(
    root: Mounted<'a>,
    index: usize,
    resolver: &RootResolver,
    open: impl Fn(usize) -> Option<Mounted<'a>>,
) -> GuestTree<'a> {
    let mut tree = GuestTree::new(root);
    for (device, point) in mounts(&tree) {
        // Further subvolumes are part of what is read as the root.
        let found = resolver.index_of(&device).filter(|found| *found != index);
        if let Some(fs) = found.and_then(&open) {
            tree.mount(&point, fs);
        }
    }
    tree
}
