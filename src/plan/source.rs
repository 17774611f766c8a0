//! Opening images and checking that a disk can be built from them.

use super::options::SourceOptions;
use crate::fs::md::{self, MdMember};
use crate::fs::probe::{self, ImageContent};
use crate::image::{self, Image, OpenOptions};
use crate::layout::Ids;
use crate::{Error, ErrorKind, Result};
use std::io;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// Bytes at the end of an image that distinguish it from others.
const MARKED: usize = 64 << 10;

/// An open image and its content.
#[derive(Clone, Debug)]
pub(super) struct SourceImage {
    pub(super) image: Arc<dyn Image>,
    pub(super) content: ImageContent,
    /// Set for a member of a software RAID, also if its content is read as if it were alone.
    pub(super) md: Option<MdMember>,
    /// Distinguishes this state of this image from others.
    pub(super) fingerprint: Uuid,
    /// The same, made from the content alone, wherever it lies.
    content_print: Uuid,
}

impl SourceImage {
    /// Opens the image at `path`.
    ///
    /// # Errors
    /// Those of [`image::open`] and of reading.
    pub(super) fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        Self::of(image::open(path, options)?)
    }

    /// Looks at `image`.
    ///
    /// # Errors
    /// Those of reading.
    pub(super) fn of(image: Arc<dyn Image>) -> Result<Self> {
        let failed = |e| Error::io(format!("cannot read {}", image.path().display()), e);
        let head = read_part(&*image, 0, probe::HEAD_LEN as u64).map_err(failed)?;
        let content = probe::probe(&head, image.len());
        let tail_len = 2 * MARKED as u64;
        let tail =
            read_part(&*image, image.len().saturating_sub(tail_len), tail_len).map_err(failed)?;
        let len = image.len().to_le_bytes();
        let marked = &tail[tail.len().saturating_sub(MARKED)..];
        let content_print = Ids::fingerprint(&[&len, &head, marked]);
        // A server may know of changes elsewhere.
        let fingerprint = match image.version() {
            Some(version) => Ids::fingerprint(&[&len, &head, marked, version.as_bytes()]),
            None => content_print,
        };
        let md = md::member(&head, &tail, image.len());
        Ok(Self { image, content, md, fingerprint, content_print })
    }

    /// The seed for identifiers: the filesystem's UUID if it has one.
    pub(super) fn seed(&self) -> Vec<u8> {
        match self.content.uuid() {
            Some(uuid) => uuid.to_vec(),
            None => self.content_print.as_bytes().to_vec(),
        }
    }

    /// UUID of the filesystem in text form.
    pub(super) fn uuid_text(&self) -> Option<String> {
        self.content.uuid().map(|uuid| probe::uuid_text(&uuid))
    }

    /// Label of the filesystem, if not empty.
    pub(super) fn label(&self) -> Option<&str> {
        self.content.label()
    }

    pub(super) fn is_swap(&self) -> bool {
        matches!(self.content, ImageContent::Swap { .. })
    }

    /// Whether it is a filesystem that can be looked into.
    pub(super) fn has_filesystem(&self) -> bool {
        use ImageContent::{Btrfs, Ext, Xfs};
        matches!(self.content, Ext { .. } | Xfs { .. } | Btrfs { .. })
    }

    /// Whether it is a physical volume of LVM.
    pub(super) fn holds_volumes(&self) -> bool {
        matches!(self.content, ImageContent::Lvm2Pv)
    }

    /// Refuses content that cannot become a partition.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] with the content and what to do.
    pub(super) fn require_partition(&self, path: &Path) -> Result<()> {
        let shown = path.display();
        let advice = match self.content {
            ImageContent::WholeDisk(_) => "it has its partition table already and cannot be a \
                                           partition; name it alone, or as a disk (xvda) of a domU \
                                           config"
                .to_owned(),
            ImageContent::Gzip | ImageContent::Xz | ImageContent::Zstd | ImageContent::Bzip2 => {
                "unpack it first".to_owned()
            }
            _ => return Ok(()),
        };
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("{shown} holds {}: {advice}", self.content.describe()),
        ))
    }

    /// Refuses a first partition that no guest can boot from, unless the user specified how.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] with the content and what to do.
    pub(super) fn require_bootable(&self, path: &Path, options: &SourceOptions) -> Result<()> {
        let no_kernel = options.bootloader.is_some_and(|l| l.limits().is_none());
        let told = options.kernel.is_some() || no_kernel;
        let advice = match self.content {
            ImageContent::Swap { .. } => {
                "name the root image first; swap is synthesised (--swap SIZE)"
            }
            _ if self.has_filesystem() || self.holds_volumes() => return Ok(()),
            _ if told => return Ok(()),
            _ if path.extension().is_some_and(|e| e == "cfg" || e == "conf" || e == "hvm") => {
                "is it a domU config? then name it with --config"
            }
            ImageContent::MdMember(_) => {
                "its filesystem does not begin with its first byte; assemble the array on the host \
                 (mdadm --assemble --run --readonly) and name that device"
            }
            _ => {
                "no kernel can be read from that; give one with --kernel and --initrd, or use \
                 --bootloader none"
            }
        };
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("{} holds {}: {advice}", path.display(), self.content.describe()),
        ))
    }
}

/// `len` bytes at `offset`, or fewer at the end of the image.
fn read_part(image: &dyn Image, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len.min(image.len() - offset) as usize];
    image.read_at(&mut bytes, offset)?;
    Ok(bytes)
}
