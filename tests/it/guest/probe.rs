//! What an image contains, compared with blkid on images made by the tools themselves.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use synthdisk::fs::probe::{ExtKind, HEAD_LEN, ImageContent, probe, uuid_text};
use synthdisk::layout::TableKind;

fn run(program: &str, args: &[&str], image: &Path) -> Option<String> {
    let output = match Command::new(program).args(args).arg(image).output() {
        Ok(output) => output,
        Err(_) => {
            crate::common::process::skip(&format!("{program} is not installed"));
            return None;
        }
    };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}

fn content(image: &Path) -> ImageContent {
    let data = fs::read(image).unwrap();
    probe(&data[..data.len().min(HEAD_LEN)], data.len() as u64)
}

#[test]
fn agrees_with_blkid() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for (program, args, kind) in [
        ("/usr/sbin/mke2fs", &["-qq", "-F", "-t", "ext2", "-L", "the-label"][..], "ext2"),
        ("/usr/sbin/mke2fs", &["-qq", "-F", "-t", "ext3", "-L", "the-label"], "ext3"),
        ("/usr/sbin/mke2fs", &["-qq", "-F", "-t", "ext4", "-L", "the-label"], "ext4"),
        ("/usr/sbin/mkswap", &["-q", "-L", "the-label"], "swap"),
        ("/usr/sbin/mkswap", &["-q", "-p", "16384", "-L", "the-label"], "swap"),
        ("/usr/sbin/mkfs.xfs", &["-q", "-f", "-L", "the-label"], "xfs"),
        ("/usr/sbin/mkfs.btrfs", &["-q", "-f", "-L", "the-label"], "btrfs"),
    ] {
        File::create(&image).unwrap().set_len(320 << 20).unwrap();
        if run(program, args, &image).is_none() {
            continue;
        }
        let got = content(&image);
        let (name, label) = match &got {
            ImageContent::Ext { kind, label, size, needs_recovery, .. } => {
                assert_eq!((*size, *needs_recovery), (320 << 20, false));
                let name = match kind {
                    ExtKind::Ext2 => "ext2",
                    ExtKind::Ext3 => "ext3",
                    ExtKind::Ext4 => "ext4",
                };
                (name, label)
            }
            ImageContent::Xfs { label, .. } => ("xfs", label),
            ImageContent::Btrfs { label, .. } => ("btrfs", label),
            ImageContent::Swap { label, version, last_page, page_size, .. } => {
                assert_eq!(*version, 1);
                assert_eq!((u64::from(*last_page) + 1) * u64::from(*page_size), 320 << 20);
                ("swap", label)
            }
            other => panic!("{program} {args:?}: {other:?}"),
        };
        assert_eq!((name, label.as_str()), (kind, "the-label"));
        let Some(blkid) = run("/usr/sbin/blkid", &["-p", "-o", "export"], &image) else { return };
        let field = |key: &str| {
            blkid
                .lines()
                .find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
                .unwrap_or("")
                .to_owned()
        };
        assert_eq!(field("TYPE"), kind);
        assert_eq!(field("LABEL"), *label);
        assert_eq!(field("UUID"), uuid_text(&got.uuid().unwrap()));
    }
}

#[test]
fn whole_disks() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for (label, want) in [("dos", TableKind::Mbr), ("gpt", TableKind::Gpt)] {
        File::create(&image).unwrap().set_len(8 << 20).unwrap();
        let script = format!("echo 'label: {label}\n,4M\n' | /usr/sbin/sfdisk -q \"$0\"");
        if run("sh", &["-c", &script], &image).is_none() {
            return;
        }
        assert_eq!(content(&image), ImageContent::WholeDisk(want));
    }
}
