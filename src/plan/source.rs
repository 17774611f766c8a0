//! Opening the image and making sure that it is what a disk can be made of.

use super::options::{Bootloader, SourceOptions};
use crate::guest::fs::ReadAt;
use crate::guest::probe::{self, Content};
use crate::image::{Claim, Image, RawImage, check_unused, claim};
use crate::layout::Ids;
use crate::{Error, ErrorKind, Result};
use std::io;
use std::sync::Arc;
use uuid::Uuid;

/// The root image, open and looked at.
#[derive(Clone, Debug)]
pub(super) struct RootImage {
    pub(super) image: Arc<RawImage>,
    pub(super) content: Content,
    /// Tells this state of this image from others.
    pub(super) fingerprint: Uuid,
    /// What identifiers derive from.
    pub(super) seed: Vec<u8>,
}

impl RootImage {
    /// Open the image that `options` name.
    ///
    /// # Errors
    /// Those of opening; [`ErrorKind::Busy`] when it is in use; [`ErrorKind::Unsupported`] when it
    /// is something else than a bare partition.
    pub(super) fn open(options: &SourceOptions) -> Result<Self> {
        let image = RawImage::open(&options.images[0])?;
        if !options.force {
            check_unused(&image)?;
        }
        // From here on a QEMU that wants to write to the image is told that it is in use.
        let _ = claim(image.file(), Claim::StableRead);
        let shown = options.images[0].display();
        let head = read_part(&image, 0, probe::HEAD_LEN as u64)
            .map_err(|e| Error::io(format!("cannot read {shown}"), e))?;
        let content = probe::probe(&head, image.len());
        refuse_other_kinds(&content, options)?;
        let tail_len = 64 << 10;
        let tail = read_part(&image, image.len().saturating_sub(tail_len), tail_len)
            .map_err(|e| Error::io(format!("cannot read {shown}"), e))?;
        let len = image.len().to_le_bytes();
        let fingerprint = Ids::fingerprint(&[&len, &head, &tail]);
        let seed = match content.uuid() {
            Some(uuid) => uuid.to_vec(),
            None => fingerprint.as_bytes().to_vec(),
        };
        Ok(Self { image: Arc::new(image), content, fingerprint, seed })
    }

    /// UUID of the filesystem in text form.
    pub(super) fn uuid_text(&self) -> Option<String> {
        self.content.uuid().map(|uuid| probe::uuid_text(&uuid))
    }
}

/// `len` bytes at `offset`, or as many as there are.
fn read_part(image: &RawImage, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len.min(image.len() - offset) as usize];
    image.read_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// A bare partition's image is raw and holds one filesystem; for all else there is a better way.
fn refuse_other_kinds(content: &Content, options: &SourceOptions) -> Result<()> {
    let shown = options.images[0].display();
    let advice = match content {
        Content::WholeDisk(_) => format!(
            "it has its partition table already, so QEMU takes it as it is \
             (-drive file={shown},format=raw,snapshot=on)"
        ),
        Content::Qcow2 | Content::Vhd | Content::Vhdx | Content::Vmdk => {
            format!(
                "only raw images are read; convert it (qemu-img convert -O raw {shown} root.img)"
            )
        }
        Content::Gzip | Content::Xz | Content::Zstd | Content::Bzip2 => {
            "unpack it first".to_owned()
        }
        Content::Swap { .. } => {
            "name the root image instead; swap is synthesised (--swap SIZE)".to_owned()
        }
        Content::Ext { .. } => return Ok(()),
        _ if options.kernel.is_some() || options.bootloader == Some(Bootloader::None) => {
            return Ok(());
        }
        _ => "no kernel can be read from that; give one with --kernel and --initrd, or use \
              --bootloader none"
            .to_owned(),
    };
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("{shown} holds {}: {advice}", content.describe()),
    ))
}

/// An image as the guest room wants to read it.
#[derive(Debug)]
pub(super) struct ImageReader(pub(super) Arc<RawImage>);

impl ReadAt for ImageReader {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.as_ref().read_at(buf, offset)
    }

    fn size(&self) -> u64 {
        self.0.len()
    }
}
