//! The backing image that a qcow2 file names.

use super::header::{BACKING_FORMAT, Header};
use crate::image::driver::Backing;
use crate::{Error, ErrorKind, Result};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The backing image that `header` names.
///
/// # Errors
/// `Unsupported` if it is not a file.
pub(super) fn of(header: &Header) -> Result<Option<Backing>> {
    if header.backing_name.is_empty() {
        return Ok(None);
    }
    let name = file_name(&header.backing_name)?;
    let format = header.extension(BACKING_FORMAT).map(format_named);
    let path = PathBuf::from(OsStr::from_bytes(name));
    Ok(Some(Backing { paths: vec![path], format, id: None }))
}

/// `name` as the path of a file. QEMU takes a colon before the first slash for the end of a protocol.
fn file_name(name: &[u8]) -> Result<&[u8]> {
    let shown = || String::from_utf8_lossy(name).escape_debug().to_string();
    let refuse = |why: &str| {
        let what = format!(
            "its backing image '{}' {why}; write the image out whole first (qemu-img convert -O qcow2)",
            shown()
        );
        Err(Error::new(ErrorKind::Unsupported, what))
    };
    if name.contains(&0) {
        return refuse("is not the name of a file");
    }
    if let Some(path) = name.strip_prefix(b"file:") {
        return Ok(path);
    }
    let protocol = name.iter().position(|b| *b == b':');
    let slash = name.iter().position(|b| *b == b'/').unwrap_or(name.len());
    match protocol {
        Some(colon) if colon < slash => refuse("is not a file, but a description for QEMU"),
        _ => Ok(name),
    }
}

/// The format that QEMU calls `name`, as this program calls it.
fn format_named(name: &[u8]) -> String {
    match name {
        // QEMU's names for files and devices as such, which stand for raw where a format is expected.
        b"file" | b"host_device" => "raw".into(),
        name => String::from_utf8_lossy(name).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_backing_images() {
        for (name, expected) in [
            ("base.img", Some("base.img")),
            ("/srv/base.img", Some("/srv/base.img")),
            ("file:base.img", Some("base.img")),
            ("./a:b", Some("./a:b")),
            ("a:b", None),
            ("json:{\"file\":{\"filename\":\"/etc/shadow\"}}", None),
            ("nbd://host/export", None),
            ("nbd:unix:/x", None),
            ("fat:rw:/etc", None),
            ("https://host/base.img", None),
            ("ba\0se", None),
        ] {
            let found = file_name(name.as_bytes());
            assert_eq!(found.ok(), expected.map(str::as_bytes), "{name}");
        }
        let e = file_name(b"json:{\n}").unwrap_err();
        assert!(e.to_string().contains("'json:{\\n}' is not a file"), "{e}");
        assert_eq!(format_named(b"file"), "raw");
        assert_eq!(format_named(b"vpc"), "vpc");
    }
}
