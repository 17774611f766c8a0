//! Writing out a disk: the bytes of `disk.raw`, in a file or on a block device that can be used
//! without synthdisk.
//!
//! Raw results are written here, from the region table and the overlay, without a mount. Other
//! formats are written by the host's qemu-img, which reads a private mount. Uses `disk` and `image`
//! for bytes, `fuse` for that mount, and `process` for child processes and signals. `plan` has
//! already decided which disks exist.
//!
//! Each file of this room uses only files further down in this list:
//!
//! - `write`, `delta`: one result, from its first byte to its final name
//! - `convert`, `qemu_img`: other formats; `copy`, `share`, `device`: raw bytes; `verify`: reading
//!   back
//! - `new_file`, `hidden`: incomplete files; `room`: checks for free space
//! - `snapshot`, `live`: disks of a mount
//! - `outputs`: which disks are written, and the names of their files
//! - `destination`, `access`, `identity`, `loops`: where results go, who may read them, and a check
//!   that they do not replace a source
//! - `backing`, `contents`: what is written
//! - `progress`, `writeback`, `reflink`, `zeros`, `formats`, `options`, `unique`,
//!   `errors`

mod access;
mod backing;
mod contents;
mod convert;
mod copy;
mod delta;
mod destination;
mod device;
mod errors;
mod formats;
mod hidden;
mod identity;
mod live;
mod loops;
mod new_file;
mod options;
mod outputs;
mod progress;
mod qemu_img;
mod reflink;
mod room;
mod share;
mod snapshot;
mod unique;
mod verify;
mod write;
mod writeback;
mod zeros;

pub use access::SourceAccess;
pub use backing::Backing;
pub use contents::{Contents, DiskRange, OpenFile, ReflinkSource};
pub use convert::{ConvertOptions, Converted, compare, convert};
pub use copy::{Copied, to_device, to_file};
pub use delta::write_delta;
pub use destination::{Destination, Existing, OutputPath, shares_blocks};
pub use device::BlockDevice;
pub use formats::{Conversion, OutputFormat};
pub use identity::refuse_sources;
pub use live::{open_live_disk, writer_of};
pub use new_file::NewFile;
pub use options::{CopyOptions, Reflink};
pub use outputs::{Output, OutputDisk, Wanted, choose, choose_live, no_partition};
pub use progress::Progress;
pub use room::check_room;
pub use snapshot::LiveSnapshot;
pub use verify::{sha256, verify};
pub use write::{Input, Pending, Request, Written, write_converted, write_raw};

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    /// For each file of the room, the files of the room that it uses outside tests.
    fn uses() -> BTreeMap<String, BTreeSet<String>> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/finalize");
        let mut uses = BTreeMap::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            let rest = code.split("super::").skip(1);
            let names = rest.map(|rest| {
                rest.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).next().unwrap().into()
            });
            uses.insert(path.file_stem().unwrap().to_str().unwrap().into(), names.collect());
        }
        uses
    }

    #[test]
    fn no_two_files_use_each_other() {
        let mut left: BTreeMap<String, BTreeSet<String>> = uses();
        assert!(left["write"].contains("verify") && left.len() > 20);
        // Repeatedly remove files that use no remaining file.
        loop {
            let names: BTreeSet<String> = left.keys().cloned().collect();
            let before = left.len();
            left.retain(|_, uses| uses.intersection(&names).next().is_some());
            if left.len() == before {
                break;
            }
        }
        assert!(left.is_empty(), "these files use each other in a circle: {left:#?}");
    }
}
