//! The output formats of a disk, and their options.

use crate::{Error, ErrorKind, Result};
use std::path::Path;

/// File format of the result.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum OutputFormat {
    /// The bytes as they are
    #[default]
    Raw,
    /// QEMU's own format
    Qcow2,
    /// VHD: Hyper-V, Azure, XenServer
    #[value(alias = "vhd")]
    Vpc,
    /// Hyper-V
    Vhdx,
    /// VMware
    Vmdk,
}

impl OutputFormat {
    /// The format that a file's name stands for; raw if it stands for none.
    pub fn of_name(path: &Path) -> Self {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "qcow2" => Self::Qcow2,
            "vhd" | "vpc" => Self::Vpc,
            "vhdx" => Self::Vhdx,
            "vmdk" => Self::Vmdk,
            _ => Self::Raw,
        }
    }

    /// qemu-img's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vpc => "vpc",
            Self::Vhdx => "vhdx",
            Self::Vmdk => "vmdk",
        }
    }

    /// File name extension of this format.
    pub fn extension(self) -> &'static str {
        if self == Self::Vpc { "vhd" } else { self.name() }
    }
}

/// A format with its options.
#[derive(Clone, Debug, Default)]
pub struct Conversion {
    /// The format.
    pub format: OutputFormat,
    /// Compress.
    pub compress: bool,
    /// Options of the format, `key=value`, as `qemu-img -o` takes them.
    pub options: Vec<String>,
}

impl Conversion {
    /// Refuse invalid combinations of options before any work is done.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`].
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::new(ErrorKind::Usage, what));
        let name = self.format.name();
        if self.format == OutputFormat::Raw && !self.options.is_empty() {
            return wrong("--format raw has no options; leave out -O".into());
        }
        if self.compress && !matches!(self.format, OutputFormat::Qcow2 | OutputFormat::Vmdk) {
            return wrong(format!("--format {name} cannot be compressed; qcow2 and vmdk can"));
        }
        let mut pairs = self.options.iter().flat_map(|o| o.split(','));
        if let Some(bad) = pairs.find(|pair| !pair.contains('=')) {
            return wrong(format!("-O {bad} is not of the form key=value"));
        }
        if self.option("backing_file").is_some() {
            return wrong("-O backing_file makes a delta; finalize --delta is for that".into());
        }
        if let Some(kind) = self.option("subformat") {
            let several = ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"];
            if self.format == OutputFormat::Vmdk && several.contains(&kind) {
                return wrong(format!(
                    "-O subformat={kind} makes several files; monolithicSparse and \
                     streamOptimized make one"
                ));
            }
        }
        Ok(())
    }

    /// The value of an option, if it was given.
    fn option(&self, key: &str) -> Option<&str> {
        let mut pairs = self.options.iter().flat_map(|o| o.split(','));
        pairs
            .rfind(|pair| pair.split_once('=').is_some_and(|(k, _)| k == key))?
            .split_once('=')
            .map(|(_, value)| value)
    }

    /// All options for qemu-img, including our own.
    pub(super) fn all_options(&self) -> Vec<String> {
        let mut all = self.options.clone();
        // Without this option, the size is rounded to a CHS geometry, which changes the disk.
        if self.format == OutputFormat::Vpc && self.option("force_size").is_none() {
            all.push("force_size=on".into());
        }
        if self.format == OutputFormat::Vmdk && self.compress && self.option("subformat").is_none()
        {
            all.push("subformat=streamOptimized".into());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversion(format: OutputFormat, compress: bool, options: &[&str]) -> Conversion {
        Conversion { format, compress, options: options.iter().map(|o| (*o).into()).collect() }
    }

    #[test]
    fn what_no_format_takes_is_refused() {
        for (format, compress, options) in [
            (OutputFormat::Raw, false, &["size=1"][..]),
            (OutputFormat::Raw, true, &[]),
            (OutputFormat::Vpc, true, &[]),
            (OutputFormat::Vhdx, true, &[]),
            (OutputFormat::Qcow2, false, &["cluster_size"]),
            (OutputFormat::Qcow2, false, &["lazy_refcounts=on,backing_file=x"]),
            (OutputFormat::Vmdk, false, &["subformat=twoGbMaxExtentSparse"]),
        ] {
            let e = conversion(format, compress, options).check().unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Usage, "{format:?} {options:?}");
        }
        conversion(OutputFormat::Qcow2, true, &["cluster_size=2M,compression_type=zstd"])
            .check()
            .unwrap();
    }

    #[test]
    fn options_that_keep_the_disk_are_added() {
        let all = |c: Conversion| c.all_options();
        assert_eq!(all(conversion(OutputFormat::Vpc, false, &[])), ["force_size=on"]);
        let fixed = ["subformat=fixed,force_size=off"];
        assert_eq!(all(conversion(OutputFormat::Vpc, false, &fixed)), fixed);
        let compressed = conversion(OutputFormat::Vmdk, true, &[]);
        assert_eq!(all(compressed), ["subformat=streamOptimized"]);
    }
}
