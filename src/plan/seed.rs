//! The disk for cloud-init.

use super::build::PlannedDisk;
use crate::disk::{Disk, Region, RegionKind, RegionTable, Source};
use crate::identity::Hostname;
use crate::layout::{Ids, SEED_FILE_MAX, Seed};
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name in a mount of the disk for cloud-init.
pub const CIDATA_FILE: &str = "cidata.raw";

/// Files of this host for cloud-init's NoCloud data source.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct CloudInit {
    /// What to do.
    pub user_data: PathBuf,
    /// Who the guest is; made up when it is not given.
    pub meta_data: Option<PathBuf>,
    /// How its network is configured.
    pub network_config: Option<PathBuf>,
}

impl CloudInit {
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

impl std::fmt::Display for CloudInit {
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

/// What user-data may begin with (cloud-init, `cloudinit/handlers`), upper case counted as lower.
const BEGINNINGS: [&[u8]; 11] = [
    b"#cloud-config",
    b"#!",
    b"#include",
    b"#cloud-boothook",
    b"#part-handler",
    b"#upstart-job",
    b"## template:",
    b"content-type:",
    b"mime-version:",
    b"from ",
    b"\x1f\x8b",
];

/// The disk with `wanted`'s files, for a guest called `hostname`.
///
/// # Errors
/// Those of reading the files; [`ErrorKind::TooLarge`].
pub(super) fn seed_disk(
    wanted: &CloudInit,
    hostname: Option<&Hostname>,
    notes: &mut Vec<String>,
) -> Result<PlannedDisk> {
    let user_data = read(&wanted.user_data)?;
    let head = user_data.get(..64).unwrap_or(&user_data).to_ascii_lowercase();
    if !BEGINNINGS.iter().any(|beginning| head.starts_with(beginning)) {
        notes.push(format!(
            "cloud-init will not know what {} is: it begins neither with #cloud-config nor with #! \
             nor as a MIME message",
            wanted.user_data.display()
        ));
    }
    let network = wanted.network_config.as_deref().map(read).transpose()?;
    let meta_data = match &wanted.meta_data {
        Some(path) => {
            let bytes = read(path)?;
            let has_id = String::from_utf8_lossy(&bytes).contains("instance-id");
            if !has_id {
                notes.push(format!(
                    "{} has no instance-id, without which cloud-init takes no seed",
                    path.display()
                ));
            }
            bytes
        }
        None => meta_data(&[&user_data, network.as_deref().unwrap_or_default()], hostname),
    };
    let seed =
        Seed { user_data: &user_data, meta_data: &meta_data, network_config: network.as_deref() };
    let mut bytes = seed.disk()?;
    let len = bytes.len() as u64;
    // What is zeros to the end need not be kept.
    let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1).next_multiple_of(4096);
    bytes.truncate(used);
    let origin = format!("cloud-init's {wanted}");
    let region =
        |start, len, origin, source| Region { start, len, kind: RegionKind::Image, origin, source };
    let used = bytes.len() as u64;
    let mut regions = vec![region(0, used, origin, Source::Bytes(bytes.into()))];
    if len > used {
        regions.push(region(used, len - used, "zeros".into(), Source::Zeros));
    }
    Ok(PlannedDisk {
        file: CIDATA_FILE.into(),
        vdev: "cidata".into(),
        letters: String::new(),
        disk: Arc::new(Disk::new(RegionTable::new(regions)?, None)),
        layout: None,
        ids: None,
        overlay: None,
        cdrom: false,
    })
}

/// The least that cloud-init wants to know: an instance that is another when its data are others.
fn meta_data(parts: &[&[u8]], hostname: Option<&Hostname>) -> Vec<u8> {
    let name = hostname.map_or("", Hostname::as_str);
    let id = Ids::fingerprint(&[parts, &[name.as_bytes()]].concat());
    let mut text = format!("instance-id: {id}\n");
    if !name.is_empty() {
        // Quoted, for a name of digits is no number here.
        text.push_str(&format!("local-hostname: \"{name}\"\n"));
    }
    text.into_bytes()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |e| Error::io(format!("cannot read {} for cloud-init", path.display()), e);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|f| f.take(SEED_FILE_MAX + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for text in ["u", "u,m", "u,m,n", "u,,n"] {
            assert_eq!(CloudInit::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(CloudInit::parse("u,").unwrap(), CloudInit::parse("u").unwrap());
        for bad in ["", ",m", "u,m,n,x"] {
            assert_eq!(CloudInit::parse(bad).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
    }

    #[test]
    fn who_it_is() {
        let name = Hostname::parse("web2").unwrap();
        let text = |user: &[u8], name| String::from_utf8(meta_data(&[user], name)).unwrap();
        assert_eq!(text(b"a", None), text(b"a", None));
        assert!(text(b"a", Some(&name)).ends_with("\nlocal-hostname: \"web2\"\n"));
        let id = |text: String| text.lines().next().unwrap().to_owned();
        assert_ne!(id(text(b"a", None)), id(text(b"b", None)));
        assert_ne!(id(text(b"a", None)), id(text(b"a", Some(&name))));
    }
}
