//! Disk specs, in tables.

use std::path::Path;

use synthdisk::xen::{Access, DiskFormat, DiskSpec};

/// `target|format|vdev|access|extras` of a spec.
fn show(spec: &str) -> String {
    let d = DiskSpec::parse(spec, 7).unwrap_or_else(|e| panic!("{spec:?}: {e}"));
    assert_eq!(d.line, 7);
    let mut out = format!(
        "{}|{}|{}|{}",
        d.target.as_deref().map_or("-", |t| t.to_str().unwrap()),
        format!("{:?}", d.format).to_lowercase(),
        d.vdev,
        if d.access == Access::ReadOnly { "r" } else { "w" },
    );
    for (on, word) in [(d.cdrom, "cdrom"), (d.block_device, "phy")] {
        if on {
            out.push_str(&format!("|{word}"));
        }
    }
    if let Some(script) = d.script {
        out.push_str(&format!("|script={script}"));
    }
    if let Some(discard) = d.discard {
        out.push_str(&format!("|discard={discard}"));
    }
    out
}

#[test]
fn accepted() {
    for (spec, expected) in [
        // xl-disk-configuration(5): "these strings are equivalent".
        ("/dev/vg/guest-volume,,hda", "/dev/vg/guest-volume|raw|hda|w"),
        ("/dev/vg/guest-volume,raw,hda,rw", "/dev/vg/guest-volume|raw|hda|w"),
        (
            "format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume",
            "/dev/vg/guest-volume|raw|hda|w",
        ),
        ("raw:/dev/vg/guest-volume,hda,w", "/dev/vg/guest-volume|raw|hda|w"),
        // "As are these."
        ("/root/image.iso,,hdc,cdrom", "/root/image.iso|raw|hdc|r|cdrom"),
        ("/root/image.iso,,hdc,,cdrom", "/root/image.iso|raw|hdc|r|cdrom"),
        ("/root/image.iso,raw,hdc,devtype=cdrom", "/root/image.iso|raw|hdc|r|cdrom"),
        (
            "format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/root/image.iso",
            "/root/image.iso|raw|hdc|r|cdrom",
        ),
        ("raw:/root/image.iso,hdc:cdrom,ro", "/root/image.iso|raw|hdc|r|cdrom"),
        // "Missing format and empty target", and newer spellings of it.
        (",hdc:cdrom,r", "-|raw|hdc|r|cdrom"),
        (",raw,hdc,,cdrom", "-|raw|hdc|r|cdrom"),
        ("vdev=hdc,cdrom", "-|raw|hdc|r|cdrom"),
        ("format=empty,vdev=hdc,cdrom", "-|raw|hdc|r|cdrom"),
        // Old prefixes.
        ("phy:/dev/vg/root,xvda2,w", "/dev/vg/root|raw|xvda2|w|phy"),
        ("phy:vg/root,sda1,w", "vg/root|raw|sda1|w|phy"),
        ("file:/srv/disk.img,xvda2,w", "/srv/disk.img|raw|xvda2|w"),
        ("file:/srv/disk.img,xvda2,w!", "/srv/disk.img|raw|xvda2|w"),
        ("file:/srv/disk.img,xvda2,!", "/srv/disk.img|raw|xvda2|w"),
        ("file:/srv/disk.img,xvda2,r", "/srv/disk.img|raw|xvda2|r"),
        ("file:/srv/disk.img,xvda2", "/srv/disk.img|raw|xvda2|w"),
        ("tap:aio:/srv/disk.img,xvda,w", "/srv/disk.img|raw|xvda|w"),
        ("tap:qcow2:/srv/disk.qcow2,xvda,w", "/srv/disk.qcow2|qcow2|xvda|w"),
        ("tap:qcow:/srv/d,xvda,w", "/srv/d|qcow|xvda|w"),
        ("tap2:vhd:/srv/d,xvda,w", "/srv/d|vhd|xvda|w"),
        ("tap2:tapdisk:aio:/srv/d,xvda,w", "/srv/d|raw|xvda|w"),
        ("tap:tapdisk:vhd:/srv/d,xvda,w", "/srv/d|vhd|xvda|w"),
        ("ioemu:file:/srv/d,hda,w", "/srv/d|raw|hda|w"),
        ("vhd:/srv/d,xvdb,rw", "/srv/d|vhd|xvdb|w"),
        ("iscsi:iqn.2001-05.com.x,xvda,w", "iqn.2001-05.com.x|raw|xvda|w|script=block-iscsi"),
        ("nbd:10.0.0.1,xvda,w", "10.0.0.1|raw|xvda|w|script=block-nbd"),
        ("drbd:r0,xvda,w", "r0|raw|xvda|w|script=block-drbd"),
        (
            "script=block-iscsi,vdev=xvda,target=iqn:x,y=z",
            "iqn:x,y=z|raw|xvda|w|script=block-iscsi",
        ),
        // Formats, flags, order.
        ("/srv/d,qcow2,xvda", "/srv/d|qcow2|xvda|w"),
        ("/srv/d,qed,xvda,r", "/srv/d|qed|xvda|r"),
        ("/srv/d, raw, xvda, ro", "/srv/d|raw|xvda|r"),
        ("/srv/d,raw,xvda,,no-discard", "/srv/d|raw|xvda|w|discard=false"),
        ("discard,direct-io-safe,/srv/d,raw,xvda", "/srv/d|raw|xvda|w|discard=true"),
        ("vdev=xvda2,/srv/d", "/srv/d|raw|xvda2|w"),
        ("vdev=xvda2,/srv/d,qcow2", "/srv/d|qcow2|xvda2|w"),
        ("backendtype=phy,vdev=xvda,target=vg/x", "vg/x|raw|xvda|w|phy"),
        ("backendtype=qdisk,vdev=xvda,/srv/d", "/srv/d|raw|xvda|w"),
        ("vdev=xvda,target=/srv/a,b=c:d ", "/srv/a,b=c:d |raw|xvda|w"),
        (",,xvda,w,target=/srv/late", "/srv/late|raw|xvda|w"),
        ("/srv/d,raw,xvda,w,", "/srv/d|raw|xvda|w"),
        ("/srv/d,raw,51714,w", "/srv/d|raw|xvda2|w"),
        ("/srv/d,raw,d0p3,w", "/srv/d|raw|xvda3|w"),
        ("/srv/d,raw,xvda,w,removable", "/srv/d|raw|xvda|w"),
        ("/srv/cd.iso,raw,hdc,rw,cdrom", "/srv/cd.iso|raw|hdc|r|cdrom"),
        ("/srv/d,raw,hda:disk,w", "/srv/d|raw|hda|w"),
    ] {
        assert_eq!(show(spec), expected, "{spec:?}");
    }
}

#[test]
fn refused() {
    for (spec, words) in [
        ("", "no vdev"),
        ("/srv/d", "no vdev"),
        ("/srv/d,raw", "no vdev"),
        ("/srv/d,raw,", "no vdev"),
        (",raw,xvda,w", "no target"),
        ("vdev=xvda", "no target"),
        ("/srv/d,raw,raw,,vdev=xvda", "twice"),
        ("/srv/d,vmdk,xvda", "unknown format 'vmdk'"),
        ("/srv/d,raw,vda", "'vda' is not a device name"),
        ("/srv/d,raw,257", "device number"),
        ("/srv/d,raw,xvda,x", "unknown access"),
        ("/srv/d,raw,xvda,w,more", "too many"),
        ("/srv/d,raw,xvda,vdev=xvdb", "twice"),
        ("/srv/d,raw,xvda,target=/srv/e", "twice"),
        ("/srv/d,raw,xvda,format=qcow2", "two different formats"),
        ("/srv/d,raw,xvda,w,access=r", "two different kinds"),
        ("/srv/d,raw,hdc:floppy,r", "floppy"),
        ("/srv/d,raw,xvda,colour=red", "'colour='"),
        ("/srv/a=b,raw,xvda", "target="),
        ("vmdk:/srv/d,xvda,w", "'vmdk:'"),
        ("/srv/d,raw,xvda,backendtype=floppy", "backendtype"),
        ("/srv/\0,raw,xvda", "NUL"),
    ] {
        let message = DiskSpec::parse(spec, 7).expect_err(spec).to_string();
        assert!(message.starts_with("line 7: disk '"), "{message}");
        assert!(message.contains(words), "{spec:?}: {message}");
    }
}

#[test]
fn relative_targets() {
    for (spec, target, alternative) in [
        ("disk.img,raw,xvda", "/etc/xen/disk.img", "/dev/disk.img"),
        ("phy:vg/root,xvda,w", "/dev/vg/root", "/etc/xen/vg/root"),
    ] {
        let mut d = DiskSpec::parse(spec, 1).unwrap();
        d.resolve(Path::new("/etc/xen"));
        assert_eq!(d.target.as_deref(), Some(Path::new(target)));
        assert_eq!(d.target_alternative.as_deref(), Some(Path::new(alternative)));
    }
    for spec in ["/srv/disk.img,raw,xvda", "nbd:host,xvda,w", ",hdc:cdrom,r"] {
        let mut d = DiskSpec::parse(spec, 1).unwrap();
        let before = d.clone();
        d.resolve(Path::new("/etc/xen"));
        assert_eq!(d, before);
    }
}

#[test]
fn noted() {
    for (spec, words) in [
        ("iscsi:x,xvda,w", "block-iscsi"),
        ("/srv/d,raw,xvda,w,backend=storage", "storage"),
        ("/srv/d,raw,xvda,w,colo,colo-port=9000", "COLO"),
    ] {
        let d = DiskSpec::parse(spec, 1).unwrap();
        assert!(d.notes.iter().any(|n| n.message.contains(words)), "{spec:?}: {:?}", d.notes);
    }
    let quiet = DiskSpec::parse("/srv/d,raw,xvda,w,backend=0,direct-io-safe", 1).unwrap();
    assert!(quiet.notes.is_empty());
    assert_eq!(quiet.format, DiskFormat::Raw);
}

#[test]
fn hostile() {
    for unit in [",", "cdrom,", "raw:", "a:", ":", "=", "colo,", " ", "x", "é,", "vdev=xvda,"] {
        for tail in ["", ",/srv/d,raw,xvda", "target="] {
            let _ = DiskSpec::parse(&(unit.repeat(1 << 18) + tail), 1);
        }
    }
}
