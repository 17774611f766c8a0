//! The options that describe a guest and its disks.

use crate::adapt::Selection;
use crate::edit::EditWith;
use crate::guest::select::EntrySelector;
use crate::identity::Identity;
use crate::image::{self, Foreign, InUse};
use crate::layout::{TableKind, parse_disk_id, parse_size};
use crate::loader::{FirmwareSet, LoaderKind};
use crate::remote::{RemoteOptions, RemoteUrl};
use crate::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::path::PathBuf;
use uuid::Uuid;

/// Options about the guest's disks. `None` means "not given"; an existing overlay may then decide.
///
/// This is the only description of these options: clap derives parsing, help, manual pages and
/// completions from it, mount(8)'s `-o` accepts the same names, and serde carries the values to the
/// process that serves the mount. Sizes look like `512M`, `20G`, `1048576` or `63s` (sectors).
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
#[command(next_help_heading = "Disk")]
pub struct SourceOptions {
    /// Images that become partitions 1, 2, 3, …; empty when `config` is given.
    #[arg(skip)]
    pub images: Vec<PathBuf>,

    /// The domU config that names the disks.
    #[arg(skip)]
    pub config: Option<PathBuf>,

    /// Size of the swap partition, 0 for none [default: 512M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub swap: Option<u64>,

    /// Start partitions at multiples of this size [default: 1M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub align: Option<u64>,

    /// Size of the root partition if larger than the image; zeros follow the image
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub root_size: Option<u64>,

    /// Partition table type [default: mbr, or gpt where mbr cannot describe the disk]
    #[arg(long, value_enum)]
    pub table: Option<TableKind>,

    /// Disk signature of the partition table, in hex [default: derived from the image]
    #[arg(long, value_name = "HEX", value_parser = parse_disk_id)]
    pub disk_id: Option<u32>,

    /// UUID of the swap area [default: derived from the image]
    #[arg(long, value_name = "UUID")]
    pub swap_uuid: Option<Uuid>,

    /// Attach a NoCloud disk with these files for cloud-init
    #[arg(long, value_name = "USER-DATA[,META-DATA[,NETWORK-CONFIG]]")]
    #[arg(value_parser = CloudInitFiles::parse)]
    pub cloud_init: Option<CloudInitFiles>,

    /// Format of the images (raw, qcow2, vhd, vhdx, vmdk, vdi) [default: what the config or a file's name says]; with
    /// raw, an image is used verbatim even if it begins like another format
    #[arg(long, value_name = "FORMAT", value_parser = image::Format::parse)]
    pub image_format: Option<image::Format>,

    /// Let backing images lie in this directory, too; can be repeated [default: only in the directory
    /// of the image that names them]
    #[arg(long = "backing-dir", value_name = "DIR")]
    pub backing_dirs: Vec<PathBuf>,

    /// URLs of images with their secrets; `images` and `config` have their names.
    #[arg(skip)]
    pub urls: Vec<RemoteUrl>,

    /// Keep what is fetched of remote images in this directory [default:
    /// $XDG_CACHE_HOME/synthdisk/chunks, for root /var/cache/synthdisk/chunks]
    #[arg(long, value_name = "DIR", help_heading = "Remote images")]
    pub cache_dir: Option<PathBuf>,

    /// Let that directory occupy at most this much; 0 to keep nothing [default: 10G]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Remote images")]
    pub cache_size: Option<u64>,

    /// Write down which chunks of remote images are used, in the order of their first use
    #[arg(long, value_name = "FILE", help_heading = "Remote images")]
    pub record: Option<PathBuf>,

    /// Fetch the chunks that this file of --record names before they are asked for
    #[arg(long, value_name = "FILE", help_heading = "Remote images")]
    pub prefetch: Option<PathBuf>,

    /// Compare all that is fetched of a remote image with the checksums in this file, which `finalize
    /// --write-manifest` wrote; can be repeated, for several images
    #[arg(long = "manifest", value_name = "FILE", help_heading = "Remote images")]
    pub manifests: Vec<PathBuf>,

    /// Compare all blocks of an XVA with their checksums first
    #[arg(long)]
    pub verify_source: bool,

    /// Use the image even if it appears to be in use
    #[arg(long)]
    pub force: bool,

    /// Boot loader [default: direct; for `finalize` grub, if the host has it and the guest boots its
    /// own kernel]
    #[arg(long, value_enum, help_heading = "Boot")]
    pub bootloader: Option<LoaderKind>,

    /// Firmware that the disk boots under; `run` starts a machine with it, with `both` a BIOS
    /// [default: bios, or that of the overlay]
    #[arg(long, value_enum, help_heading = "Boot")]
    pub firmware: Option<FirmwareSet>,

    /// The boot loader if none is requested and the guest boots its own kernel; `None` for the one
    /// of the overlay, or the default.
    #[arg(skip)]
    pub preferred_loader: Option<LoaderKind>,

    /// Boot this kernel file of the host instead of the guest's kernel
    #[arg(long, value_name = "FILE", help_heading = "Boot")]
    pub kernel: Option<PathBuf>,

    /// Initrd for --kernel; can be repeated, the kernel sees all of them as one
    #[arg(long = "initrd", value_name = "FILE", help_heading = "Boot")]
    pub initrds: Vec<PathBuf>,

    /// Boot the guest's own kernel even if the config names a kernel of dom0
    #[arg(long, help_heading = "Boot", conflicts_with = "kernel")]
    pub guest_kernel: bool,

    /// Boot this entry of the guest's boot menu: a number from 0, or a title
    #[arg(long, value_name = "N|TITLE", help_heading = "Boot")]
    #[arg(value_parser = parse_entry)]
    pub entry: Option<EntrySelector>,

    /// The guest's root filesystem is partition N of the first disk [default: what the guest's boot
    /// menu says]
    #[arg(long, value_name = "N", help_heading = "Boot")]
    pub root_partition: Option<u32>,

    /// Append parameters to the kernel's command line
    #[arg(long, value_name = "WORDS", help_heading = "Boot", allow_hyphen_values = true)]
    pub append: Option<String>,

    /// Replace the kernel's command line
    #[arg(long, value_name = "WORDS", help_heading = "Boot", allow_hyphen_values = true)]
    pub cmdline: Option<String>,

    /// Edits, made in the overlay, that let the guest run well on KVM: all, none, or steps by name
    #[arg(long, value_name = "auto|none|STEP,...", help_heading = "Guest edits")]
    #[arg(value_parser = Selection::parse, default_value_t)]
    pub adapt: Selection,

    /// What makes the edits [default: auto]
    #[arg(long, value_enum, value_name = "WITH", help_heading = "Guest edits")]
    #[arg(default_value_t, hide_default_value = true)]
    pub edit_with: EditWith,

    /// Seconds that the guest's own kernel may take for the edits [default: 60, or 300 without KVM]
    #[arg(long, value_name = "SECONDS", help_heading = "Guest edits")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub edit_time: Option<u32>,

    /// The new identity that makes the guest a clone.
    #[arg(skip)]
    pub identity: Identity,
}

fn parse_entry(text: &str) -> Result<EntrySelector, Infallible> {
    Ok(EntrySelector::parse(text))
}

impl SourceOptions {
    /// Default length of the swap partition, in bytes.
    pub const DEFAULT_SWAP: u64 = 512 << 20;
    /// Default alignment, in bytes.
    pub const DEFAULT_ALIGN: u64 = 1 << 20;

    /// How to open an image whose format is `configured` in the config.
    pub(super) fn open_options(&self, configured: Option<image::Format>) -> image::OpenOptions {
        let in_use = if self.force { InUse::Open } else { InUse::Refuse };
        // A user who states that an image is raw knows its content; a config may be wrong.
        let foreign = if self.image_format.is_some() { Foreign::Serve } else { Foreign::Refuse };
        image::OpenOptions {
            format: self.image_format.or(configured),
            in_use,
            foreign,
            backing_dirs: self.backing_dirs.clone(),
            remote: RemoteOptions {
                urls: self.urls.clone(),
                cache_dir: self.cache_dir.clone(),
                cache_size: self.cache_size,
                record: self.record.clone(),
                prefetch: self.prefetch.clone(),
                manifests: self.manifests.clone(),
            },
        }
    }
}

/// Files of this host for cloud-init's NoCloud data source.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct CloudInitFiles {
    /// The user-data: instructions for cloud-init.
    pub user_data: PathBuf,
    /// The meta-data with the instance ID; generated if not given.
    pub meta_data: Option<PathBuf>,
    /// The network configuration.
    pub network_config: Option<PathBuf>,
}

impl CloudInitFiles {
    /// Parses `USER-DATA[,META-DATA[,NETWORK-CONFIG]]`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for anything else.
    pub fn parse(text: &str) -> crate::Result<Self> {
        let mut names = text.split(',').map(|name| (!name.is_empty()).then(|| PathBuf::from(name)));
        let (user, meta, network) = (names.next().flatten(), names.next(), names.next());
        match (user, names.next()) {
            (Some(user_data), None) => {
                Ok(Self { user_data, meta_data: meta.flatten(), network_config: network.flatten() })
            }
            _ => Err(Error::new(
                ErrorKind::Usage,
                "--cloud-init takes USER-DATA[,META-DATA[,NETWORK-CONFIG]]: one to three files",
            )),
        }
    }
}

impl std::fmt::Display for CloudInitFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |path: &Option<PathBuf>| {
            path.as_ref().map_or_else(String::new, |p| p.display().to_string())
        };
        write!(f, "{}", self.user_data.display())?;
        if self.meta_data.is_some() || self.network_config.is_some() {
            write!(f, ",{}", shown(&self.meta_data))?;
        }
        if self.network_config.is_some() {
            write!(f, ",{}", shown(&self.network_config))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cloud_init_files() {
        for text in ["u", "u,m", "u,m,n", "u,,n"] {
            assert_eq!(CloudInitFiles::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(CloudInitFiles::parse("u,").unwrap(), CloudInitFiles::parse("u").unwrap());
        for bad in ["", ",m", "u,m,n,x"] {
            assert_eq!(CloudInitFiles::parse(bad).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
    }
}
