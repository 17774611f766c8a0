//! Images that are members of a software RAID (md): what becomes of them, for the user.

use super::disk_source::images_of;
use super::source::SourceImage;
use super::types::DiskSource;
use crate::fs::md::MdMember;
use crate::{Error, ErrorKind, Result};

/// Adds a note for each image in `disks` that is a member of an array.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for an image that only looks like a filesystem, because it is the first
/// disk of a striped array; [`ErrorKind::Invalid`] for two mirrors of one array, whose contents would
/// not stay the same.
pub(super) fn check_raid(disks: &[DiskSource], notes: &mut Vec<String>) -> Result<()> {
    let images = disks.iter().flat_map(images_of).map(|(_, image)| image);
    let members: Vec<_> = images.filter_map(|image| Some((image, image.md.as_ref()?))).collect();
    for (i, (image, member)) in members.iter().enumerate() {
        let shown = image.image.path().display();
        let kind = kind(member);
        if !member.version.begins_with_data() {
            notes.push(format!(
                "{shown} is {kind}: what it holds is not read here; the guest's own kernel can use \
                 it, and on the host `mdadm --assemble --run --readonly` makes a device of it that \
                 can be named in its place"
            ));
            continue;
        }
        if member.level != 1 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{shown} is {kind}: its filesystem lies on several disks; assemble the array on \
                     the host (mdadm --assemble --readonly) and name that device"
                ),
            ));
        }
        let same = |(_, other): &&(&SourceImage, &MdMember)| other.array == member.array;
        if let Some((other, _)) = members[..i].iter().find(same) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{} and {shown} are mirrors of one array, and edits of one would make them \
                     differ; name only one of them, and the guest boots with a degraded array",
                    other.image.path().display()
                ),
            ));
        }
        notes.push(format!(
            "{shown} is {kind}: its filesystem is read as if it were alone, and the guest finds a \
             degraded array, which its initrd must be willing to start"
        ));
    }
    Ok(())
}

fn kind(member: &MdMember) -> String {
    let level = match member.level {
        -1 => "a linear array".to_owned(),
        level if level >= 0 => format!("RAID{level}"),
        _ => "an array".to_owned(),
    };
    let (disks, version) = (member.disks, member.version.name());
    format!("one of {disks} disks of {level} (md, metadata {version})")
}
