//! The bytes of a raw image never decide its format, and no image chooses files of the host.

use std::fs;
use std::path::Path;

use synthdisk::image::{Foreign, Format, OpenOptions, open};

use super::oracle::{arg, opened};
use crate::common::process::run;

/// A qcow2 file that names `backing`, in the format `format`.
fn naming(path: &Path, backing: &str, format: Option<&str>) {
    run("qemu-img", &["create", "-q", "-f", "qcow2", arg(path), "1M"]);
    let format = format.map_or_else(String::new, |format| format!(",backing_fmt={format}"));
    // `-u` does not open what is named.
    let options = format!("backing_file={backing}{format}");
    let args = ["create", "-q", "-u", "-f", "qcow2", "-o", &options, arg(path), "1M"];
    // Versions of qemu-img refuse some names; the header is then written here.
    if !crate::common::process::output("qemu-img", &args).status.success() || format.is_empty() {
        let mut bytes = fs::read(path).unwrap();
        bytes[8..16].copy_from_slice(&4096u64.to_be_bytes());
        bytes[16..20].copy_from_slice(&(backing.len() as u32).to_be_bytes());
        bytes[4096..4096 + backing.len()].copy_from_slice(backing.as_bytes());
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_raw_image_is_never_followed() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret.raw");
    fs::write(&secret, vec![0x5a; 1 << 20]).unwrap();
    let names = ["/etc/shadow", "secret.raw", arg(&secret), "json:{\"driver\":\"file\"}"];
    for (number, backing) in names.iter().enumerate() {
        let image = dir.path().join(format!("guest-{number}.img"));
        naming(&image, backing, Some("raw"));
        let bytes = fs::read(&image).unwrap();
        // By its name, by a config or an option that says raw: refused with the reason, or served as
        // the bytes that it has.
        for format in [None, Some("raw")] {
            let e = opened(&image, format).unwrap_err().to_string();
            assert!(e.contains("would be read as raw, but begins like a qcow2 image"), "{e}");
        }
        let options = OpenOptions {
            format: Some(Format::parse("raw").unwrap()),
            foreign: Foreign::Serve,
            ..OpenOptions::default()
        };
        let image = open(&image, &options).unwrap();
        let mut found = vec![0; bytes.len()];
        image.read_at(&mut found, 0).unwrap();
        assert!(found == bytes && image.len() == bytes.len() as u64);
        assert_eq!(image.files().len(), 1);
    }
    // As the backing image of a chain, a guest's raw image is not followed either, whatever its name
    // or the chain says.
    for (backing, format, served) in
        [("guest-0.img", None, false), ("guest-0.img", Some("raw"), true)]
    {
        let top = dir.path().join("top.qcow2");
        naming(&top, backing, format);
        match opened(&top, None) {
            Ok(image) => {
                assert!(served);
                let mut head = [0; 4];
                image.read_at(&mut head, 0).unwrap();
                assert_eq!(&head, b"QFI\xfb");
                assert_eq!(image.files().len(), 2);
            }
            Err(e) => {
                assert!(!served, "{e}");
                assert!(e.to_string().contains("begins like a qcow2 image"), "{e}");
            }
        }
    }
}

#[test]
fn an_image_chooses_no_files_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let (own, other) = (dir.path().join("own"), dir.path().join("other"));
    fs::create_dir(&own).unwrap();
    fs::create_dir(&other).unwrap();
    let base = other.join("base.raw");
    fs::write(&base, vec![7; 1 << 20]).unwrap();
    std::os::unix::fs::symlink(&base, own.join("link.raw")).unwrap();
    std::os::unix::fs::symlink(&other, own.join("sub")).unwrap();
    let top = own.join("top.qcow2");
    for (backing, word) in [
        ("/etc/shadow", "not beneath its directory"),
        ("../other/base.raw", "not beneath its directory"),
        (arg(&base), "not beneath its directory"),
        ("../../../../../../../../etc/shadow", "not beneath its directory"),
        ("link.raw", "symbolic link"),
        ("sub/base.raw", "symbolic link"),
        ("missing.raw", "its backing image is missing; put missing.raw"),
        ("json:{\"driver\":\"raw\"}", "a description for QEMU"),
        ("nbd://localhost/x", "a description for QEMU"),
        ("fat:/etc", "a description for QEMU"),
    ] {
        naming(&top, backing, Some("raw"));
        let e = opened(&top, None).unwrap_err().to_string();
        assert!(e.contains(word) && e.contains(arg(&top)), "{backing}: {e}");
    }
    // A directory that the user names is fine, by any path that leads there.
    for backing in ["../other/base.raw", arg(&base)] {
        naming(&top, backing, Some("raw"));
        let options = OpenOptions { backing_dirs: vec![other.clone()], ..OpenOptions::default() };
        let image = open(&top, &options).unwrap();
        let mut byte = [0];
        image.read_at(&mut byte, 12345).unwrap();
        assert_eq!(byte, [7]);
    }
    // A chain without an end.
    naming(&top, "top.qcow2", Some("qcow2"));
    let e = opened(&top, None).unwrap_err().to_string();
    assert!(e.contains("no end"), "{e}");
}
