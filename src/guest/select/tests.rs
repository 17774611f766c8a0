use super::*;
use crate::fs::MemFs;

fn menu(fs: MemFs, text: &str) -> MemFs {
    fs.file("/boot/grub/grub.cfg", text)
}

fn kernels(names: &[&str]) -> MemFs {
    names.iter().fold(MemFs::new(), |fs, n| fs.file(n, "x"))
}

#[test]
fn newest_kernel() {
    for (files, kernel, initrd) in [
        (
            &[
                "/boot/vmlinuz-6.1.0-9-amd64",
                "/boot/vmlinuz-6.1.0-10-amd64",
                "/boot/initrd.img-6.1.0-10-amd64",
            ][..],
            "/boot/vmlinuz-6.1.0-10-amd64",
            Some("/boot/initrd.img-6.1.0-10-amd64"),
        ),
        (
            &[
                "/boot/vmlinuz-0-rescue-f00d",
                "/boot/vmlinuz-5.14.0",
                "/boot/initramfs-5.14.0.img",
                "/boot/initramfs-5.14.0kdump.img",
            ],
            "/boot/vmlinuz-5.14.0",
            Some("/boot/initramfs-5.14.0.img"),
        ),
        (
            &["/boot/vmlinuz-lts", "/boot/initramfs-lts"],
            "/boot/vmlinuz-lts",
            Some("/boot/initramfs-lts"),
        ),
        (&["/boot/vmlinuz-9.old", "/boot/vmlinuz-8"], "/boot/vmlinuz-8", None),
        (&["/vmlinuz", "/initrd.img"], "/vmlinuz", Some("/initrd.img")),
        (&["/bzImage", "/kernel", "/boot/vmlinuz.hmac"], "/bzImage", None),
        (
            &["/boot/kernel-5.4.1", "/boot/initrd-5.4.1"],
            "/boot/kernel-5.4.1",
            Some("/boot/initrd-5.4.1"),
        ),
    ] {
        let boot = choose(&kernels(files), None).unwrap();
        assert_eq!(boot.kernel, kernel);
        assert_eq!(boot.initrds.first().map(String::as_str), initrd, "{kernel}");
        assert_eq!(boot.source, BootSource::NewestKernel);
    }
    let fs = kernels(&["/boot/x/vmlinuz-1", "/boot/x/initrd.img-1"]);
    let e = choose(&fs, None).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    assert!(e.to_string().contains("grub.cfg") && e.to_string().contains("vmlinuz*"));
}

#[test]
fn symlinks_of_debian() {
    let fs = MemFs::new()
        .file("/boot/vmlinuz-6.1", "k")
        .file("/boot/initrd.img-6.1", "i")
        .symlink("/vmlinuz", "boot/vmlinuz-6.1")
        .symlink("/initrd.img", "/boot/initrd.img-6.1")
        .file(
            "/boot/grub/menu.lst",
            "title a\nkernel /vmlinuz root=/dev/xvda2 ro\ninitrd /initrd.img\n",
        );
    let boot = choose(&fs, None).unwrap();
    assert_eq!(
        (boot.kernel.as_str(), &boot.initrds[0][..]),
        ("/boot/vmlinuz-6.1", "/boot/initrd.img-6.1")
    );
    assert_eq!(boot.cmdline, "root=/dev/xvda2 ro");
    assert!(boot.notes.is_empty());
}

#[test]
fn separate_boot_both_ways() {
    for (kernel, config, named) in [
        ("/boot/vmlinuz-1", "/boot/grub/grub.cfg", "/vmlinuz-1"),
        ("/vmlinuz-1", "/grub/grub.cfg", "/boot/vmlinuz-1"),
        ("/vmlinuz-1", "/grub/grub.cfg", "/vmlinuz-1"),
        ("/vmlinuz-1", "/grub/grub.cfg", "vmlinuz-1"),
    ] {
        let fs = kernels(&[kernel]).file(config, format!("menuentry a {{\nlinux {named} x\n}}"));
        assert_eq!(choose(&fs, None).unwrap().kernel, kernel, "{named}");
    }
}

const ENTRIES: &str = "set default=XX\nset fallback=3\nmenuentry a --id ida { linux /a 1; }\n\
    submenu s { menuentry b { linux /b 2; initrd /ib; } }\nmenuentry c { linux /c 3; }\n\
    menuentry d { linux /d 4; }\nmenuentry w { chainloader +1; }\n";

#[test]
fn default_fallback_next() {
    for (default, files, want) in [
        ("0", &["/a", "/b", "/ib", "/c", "/d"][..], ("/a", 0)),
        ("1", &["/a", "/b", "/ib", "/c", "/d"], ("/b", 0)),
        ("0", &["/b", "/ib", "/c", "/d"], ("/d", 2)),
        ("0", &["/c", "/b", "/ib"], ("/b", 2)),
        ("0", &["/b", "/c"], ("/c", 2)),
        ("0", &["/b"], ("/b", 3)),
        ("4", &["/c"], ("/c", 2)),
        ("4", &["/vmlinuz-7"], ("/vmlinuz-7", 2)),
    ] {
        let fs = menu(kernels(files), &ENTRIES.replace("XX", default));
        let boot = choose(&fs, None).unwrap();
        assert_eq!((boot.kernel.as_str(), boot.notes.len()), want, "{:?}", boot.notes);
        assert_eq!(boot.entries.len(), 5);
    }
}

#[test]
fn wanted_entry() {
    let fs = menu(kernels(&["/a", "/b", "/c", "/d"]), ENTRIES);
    for (want, kernel) in [
        ("0", Some("/a")),
        ("3", Some("/d")),
        ("c", Some("/c")),
        ("ida", Some("/a")),
        ("4", None),
        ("9", None),
        ("s>b", None),
        ("nothing", None),
    ] {
        let got = choose(&fs, Some(&EntrySelector::parse(want)));
        assert_eq!(got.as_ref().ok().map(|b| b.kernel.as_str()), kernel, "{want}");
        if let Err(e) = got {
            assert!(e.kind() == ErrorKind::NotFound && e.to_string().contains("\n  1  s>b"), "{e}");
        }
    }
    let fs = menu(kernels(&["/b", "/ib"]), ENTRIES);
    for want in ["s>b", "b", "1"] {
        assert_eq!(choose(&fs, Some(&EntrySelector::parse(want))).unwrap().kernel, "/b");
    }
}

#[test]
fn hypervisor_gives_way_to_a_plain_entry() {
    let text = "set default=1\nmenuentry old { linux /v5 a; }\n\
        menuentry xen { multiboot2 /xen.gz; module2 /v6 placeholder b; module2 /i6; }\n";
    let plain = "menuentry new { linux /v6 c; initrd /i6; }\n";
    let fs = || kernels(&["/v5", "/v6", "/i6", "/xen.gz"]);
    let boot = choose(&menu(fs(), &format!("{text}{plain}")), None).unwrap();
    assert_eq!((boot.kernel.as_str(), boot.cmdline.as_str()), ("/v6", "c"));
    assert!(boot.notes[0].contains("Xen"), "{:?}", boot.notes);
    let boot = choose(&menu(fs(), text), None).unwrap();
    assert_eq!((boot.kernel.as_str(), boot.cmdline.as_str()), ("/v5", "a"));
    let only = text.replace("linux /v5 a", "true");
    let boot = choose(&menu(fs(), &only), None).unwrap();
    assert_eq!((boot.kernel.as_str(), boot.cmdline.as_str()), ("/v6", "b"));
    assert_eq!(boot.initrds, ["/i6"]);
}
