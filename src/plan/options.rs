//! The options that describe a guest and its disks.

use crate::adapt::Selection;
use crate::guest::select::EntrySelector;
use crate::identity::Identity;
use crate::layout::TableKind;
use crate::loader::LoaderKind;
use crate::{Error, ErrorKind, Result};
use std::path::PathBuf;
use uuid::Uuid;

/// Options about the guest and its disks. `None` means "not given": an existing overlay decides, else
/// a default.
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {
    /// Images that become partitions 1, 2, 3, …; empty when `config` is given.
    pub images: Vec<PathBuf>,
    /// The domU config that names the disks.
    pub config: Option<PathBuf>,
    /// Length of the swap partition in bytes; 0 for none.
    pub swap: Option<u64>,
    /// Partitions start at multiples of this many bytes.
    pub align: Option<u64>,
    /// Length of the root partition in bytes, when it is to be larger than the image.
    pub root_size: Option<u64>,
    /// Kind of partition table.
    pub table: Option<TableKind>,
    /// What starts the kernel.
    pub bootloader: Option<LoaderKind>,
    /// MBR disk signature in place of the derived one.
    pub disk_id: Option<u32>,
    /// UUID of the swap area in place of the derived one.
    pub swap_uuid: Option<Uuid>,
    /// A kernel file of this host in place of the guest's.
    pub kernel: Option<PathBuf>,
    /// Initrd files of this host, which the kernel sees as one.
    pub initrds: Vec<PathBuf>,
    /// Boot the guest's own kernel whatever the config says.
    pub guest_kernel: bool,
    /// Parameters added to the kernel's command line.
    pub append: Option<String>,
    /// A command line that replaces the guest's.
    pub cmdline: Option<String>,
    /// Entry of the guest's boot menu, in place of its default.
    pub entry: Option<EntrySelector>,
    /// Which edits, made in the overlay, adapt the guest to KVM.
    pub adapt: Selection,
    /// What makes the guest a clone with an identity of its own.
    pub identity: Identity,
    /// Files for cloud-init, on a disk of their own.
    pub cloud_init: Option<CloudInitFiles>,
    /// Use the image even if it appears to be in use.
    pub force: bool,
}

impl SourceOptions {
    /// Length of the swap partition when nothing else is said, in bytes.
    pub const DEFAULT_SWAP: u64 = 512 << 20;
    /// Alignment when nothing else is said, in bytes.
    pub const DEFAULT_ALIGN: u64 = 1 << 20;
}

/// Files of this host for cloud-init's NoCloud data source.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CloudInitFiles {
    /// The user-data: what cloud-init is to do.
    pub user_data: PathBuf,
    /// The meta-data with the instance ID; generated when not given.
    pub meta_data: Option<PathBuf>,
    /// The network configuration.
    pub network_config: Option<PathBuf>,
}

impl CloudInitFiles {
    /// Parse `USER-DATA[,META-DATA[,NETWORK-CONFIG]]`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for anything else.
    pub fn parse(text: &str) -> Result<Self> {
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
