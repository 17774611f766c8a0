//! Images that are whole disks, made from partition images.

use std::fs::File;
use std::path::Path;

use super::process::run;

/// A layout of a whole disk with a swap area of 1 MiB and a root filesystem.
pub struct Shape {
    pub name: &'static str,
    /// For sfdisk.
    pub script: &'static str,
    /// First sector of partition 1, the swap area.
    pub swap: u64,
    /// First sector of the root partition.
    pub root: u64,
    pub root_number: u32,
}

/// The layouts that are found in the field: the first partition at sector 63 and at 2048, a root in a
/// logical partition, a GPT, and one without room between its entries and the first partition.
/// `{root}` is the length of the root partition in sectors.
pub const SHAPES: [Shape; 5] = [
    Shape {
        name: "mbr-63",
        script: "label: dos\nlabel-id: 0x0badcafe\nstart=63, size=2048, type=82\nstart=2111, \
                 size={root}, bootable\n",
        swap: 63,
        root: 2111,
        root_number: 2,
    },
    Shape {
        name: "mbr-2048",
        script: "label: dos\nstart=2048, size=2048, type=82\nstart=4096, size={root}, type=83\n",
        swap: 2048,
        root: 4096,
        root_number: 2,
    },
    Shape {
        name: "logical",
        script: "label: dos\nx1 : start=63, size=2048, type=82\nx2 : start=4096, type=5\n\
                 x5 : start=6144, size={root}, type=83\n",
        swap: 63,
        root: 6144,
        root_number: 5,
    },
    Shape {
        name: "gpt",
        script: "label: gpt\nstart=2048, size=2048, type=S\nstart=4096, size={root}, type=L\n",
        swap: 2048,
        root: 4096,
        root_number: 2,
    },
    Shape {
        name: "gpt-without-room",
        script: "label: gpt\nfirst-lba: 34\nstart=34, size=2048, type=S\n\
                 start=2082, size={root}, type=L\n",
        swap: 34,
        root: 2082,
        root_number: 2,
    },
];

impl Shape {
    /// The one of this name.
    pub fn named(name: &str) -> &'static Self {
        SHAPES.iter().find(|shape| shape.name == name).expect("a name in the list")
    }

    /// Makes `disk` of the images `root` and `swap`.
    pub fn make(&self, disk: &Path, root: &Path, swap: Option<&Path>) {
        let len = std::fs::metadata(root).expect("the root image").len();
        let script = self.script.replace("{root}", &(len / 512).to_string());
        // Some room after the last partition, which a table may leave.
        whole_disk(disk, len + (5 << 20), &script);
        put(disk, self.root, root);
        if let Some(swap) = swap {
            put(disk, self.swap, swap);
        }
    }
}

/// A disk of `len` bytes with the partitions that sfdisk's `script` says.
pub fn whole_disk(disk: &Path, len: u64, script: &str) {
    let file = File::create(disk).expect("a file in our own directory");
    file.set_len(len).expect("a sparse file");
    let text = script.replace('\n', "\\n");
    let command = format!("printf '{text}' | sfdisk -q --no-reread --no-tell-kernel \"$0\"");
    run("sh", &["-c".as_ref(), command.as_ref(), disk.as_os_str()]);
}

/// Copies `image` to the sectors from `lba` on.
pub fn put(disk: &Path, lba: u64, image: &Path) {
    let (from, to) = (format!("if={}", image.display()), format!("of={}", disk.display()));
    let seek = format!("seek={}", lba * 512);
    let how = ["bs=1M", "oflag=seek_bytes", "conv=sparse,notrunc", "status=none"];
    run("dd", &[&[from.as_str(), &to, &seek], &how[..]].concat());
}
