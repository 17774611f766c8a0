use super::*;
use crate::fs::MemFs;

fn run(fs: MemFs, text: &str) -> Menu {
    parse(&fs, "/boot/grub/grub.cfg", text).unwrap()
}

/// Output of Debian's `grub-mkconfig`, shortened.
const DEBIAN: &str = r#"
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="DEFAULT"
fi
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
export menuentry_id_option
function load_video {
  if [ x$feature_all_video_module = xy ]; then
    insmod all_video
  else
    insmod vga
  fi
}
if [ x$feature_default_font_path = xy ] ; then
   font=unicode
fi
if loadfont $font ; then
  set gfxmode=auto
fi
function gfxmode {
	set gfxpayload="${1}"
}
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux $menuentry_id_option 'gnulinux-simple-u1' {
	load_video
	if [ x$grub_platform = xxen ]; then insmod xzio; fi
	if [ x$feature_platform_search_hint = xy ]; then
	  search --no-floppy --fs-uuid --set=root --hint-bios=hd0  u1
	else
	  search --no-floppy --fs-uuid --set=root u1
	fi
	echo	'Loading Linux 6.1 ...'
	linux	/boot/vmlinuz-6.1 root=UUID=u1 ro  quiet
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-6.1
}
submenu 'Advanced options for Debian' $menuentry_id_option 'gnulinux-advanced-u1' {
	menuentry 'Debian, with Linux 6.1' --class debian $menuentry_id_option 'gnulinux-6.1-advanced-u1' {
		linux	/boot/vmlinuz-6.1 root=UUID=u1 ro
		initrd	/boot/ucode.img /boot/initrd.img-6.1
	}
	menuentry 'Debian, with Linux 6.1 (recovery mode)' --class debian {
		linux	/boot/vmlinuz-6.1 root=UUID=u1 ro single
	}
}
menuentry 'Xen' --class xen $menuentry_id_option 'xen' {
	multiboot2	/boot/xen.gz placeholder dom0_mem=1G ${xen_rm_opts}
	module2	/boot/vmlinuz-6.1 placeholder root=UUID=u1 ro
	module2	--nounzip   /boot/initrd.img-6.1
}
if [ "$grub_platform" = "efi" ]; then
	menuentry 'UEFI Firmware Settings' { fwsetup }
fi
menuentry "Memory test" { linux16 /boot/memtest }
"#;

#[test]
fn grub_mkconfig() {
    for (default, grubenv, want) in [
        ("0", "", 0),
        ("1", "", 1),
        ("1>1", "", 2),
        ("2", "", 3),
        ("3", "", 4),
        ("4", "", 4),
        ("9", "", 0),
        ("", "", 0),
        ("gnulinux-advanced-u1>gnulinux-6.1-advanced-u1", "", 1),
        ("Advanced options for Debian>Debian, with Linux 6.1 (recovery mode)", "", 2),
        ("Debian, with Linux 6.1 (recovery mode)", "", 2),
        ("${saved_entry}", "", 0),
        ("${saved_entry}", "saved_entry=1>1\n", 2),
        ("${saved_entry}", "saved_entry=gone\n", 0),
        ("0", "next_entry=3\n", 0),
    ] {
        let env = format!("# GRUB Environment Block\n{grubenv}#####");
        let fs = MemFs::new().file("/boot/grub/grubenv", env);
        let menu = run(fs, &DEBIAN.replace("DEFAULT", default));
        assert_eq!(menu.default, want, "{default} {grubenv}");
        assert_eq!(menu.entries.len(), 5);
    }
    let menu = run(MemFs::new(), DEBIAN);
    let e = &menu.entries[0];
    assert_eq!((e.title.as_str(), e.kernel.as_str()), ("Debian GNU/Linux", "/boot/vmlinuz-6.1"));
    assert_eq!(
        (e.cmdline.as_str(), &e.initrds[..]),
        ("root=UUID=u1 ro quiet", &["/boot/initrd.img-6.1".to_owned()][..])
    );
    let e = &menu.entries[1];
    assert_eq!(e.title, "Advanced options for Debian>Debian, with Linux 6.1");
    assert_eq!(e.initrds, ["/boot/ucode.img", "/boot/initrd.img-6.1"]);
    let e = &menu.entries[3];
    assert!(e.hypervisor && e.initrds == ["/boot/initrd.img-6.1"]);
    assert_eq!((e.kernel.as_str(), e.cmdline.as_str()), ("/boot/vmlinuz-6.1", "root=UUID=u1 ro"));
    assert_eq!(menu.entries[4].kernel, "/boot/memtest");
}

#[test]
fn quotes_and_variables() {
    let menu = run(
        MemFs::new(),
        r#"
set root='hd0,msdos1'
set opts="root=/dev/xvda1 ro"
menuentry "It's \"it\"" {
    set extra=debug
    linux ($root)/vmlinuz $opts foo="a b" 'c d' $extra $unset x\ y=\$z
}
menuentry two { linux /two $extra; initrd /i }
"#,
    );
    assert_eq!(menu.entries[0].title, "It's \"it\"");
    assert_eq!(menu.entries[0].kernel, "/vmlinuz");
    assert_eq!(menu.entries[0].cmdline, "root=/dev/xvda1 ro foo=\"a b\" \"c d\" debug \"x y=$z\"");
    assert_eq!((menu.entries[1].cmdline.as_str(), &menu.entries[1].initrds[0][..]), ("", "/i"));
}

#[test]
fn blscfg_of_rhel() {
    let fs = MemFs::new()
        .file("/boot/grub2/grubenv", "saved_entry=id-4.18.0-80\nkernelopts=root=/dev/sda1 ro\n")
        .file(
            "/boot/loader/entries/id-4.18.0-80.conf",
            "title a\nlinux /a\noptions $kernelopts x\n",
        )
        .file("/boot/loader/entries/id-4.18.0-193.conf", "title b\nlinux /b\ninitrd /i\n");
    let text = "load_env -f ${config_directory}/grubenv\nset default=\"${saved_entry}\"\n\
                insmod blscfg\nblscfg\nif [ -f $prefix/user.cfg ]; then source $prefix/user.cfg; fi\n";
    let menu = parse(&fs, "/boot/grub2/grub.cfg", text).unwrap();
    assert_eq!((menu.entries.len(), menu.default), (2, 1));
    assert_eq!(menu.entries[1].cmdline, "root=/dev/sda1 ro x");
}

#[test]
fn broken_and_hostile_scripts_end() {
    let deep = "submenu x {\n".repeat(2000);
    let bomb = (0..60).map(|i| format!("set a{}=$a{i}$a{i}x\n", i + 1)).collect::<String>();
    let long = "linux /k ".to_owned() + &"$a9 ".repeat(100_000);
    let many = "menuentry x { linux /k\n}\n".repeat(5000);
    let ifs = "if [ x ]; then\n".repeat(20_000);
    for text in [
        "menuentry",
        "menuentry {",
        "menuentry x {",
        "}",
        "if",
        "if [",
        "if [ x ]; then",
        "fi",
        "{",
        "function",
        "function f",
        "while",
        "menuentry x\n{\nlinux /k\n}",
        "submenu x { } }",
        "if fi fi",
        "menuentry x { if }",
        "menuentry x { fi } fi",
        "else",
        "[",
        "source /boot/grub/grub.cfg",
        &deep,
        &format!("{bomb}menuentry x {{\n{long}\n}}"),
        &many,
        &ifs,
    ] {
        let fs =
            MemFs::new().file("/boot/grub/grub.cfg", "source /boot/grub/grub.cfg\n".repeat(50));
        match parse(&fs, "/boot/grub/grub.cfg", text) {
            Ok(menu) => {
                assert!(menu.entries.len() <= MAX_ENTRIES);
                assert!(menu.entries.iter().all(|e| e.cmdline.len() <= MAX_CMDLINE));
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::TooLarge),
        }
    }
}

#[test]
fn negations() {
    for (condition, holds) in [
        ("true", true),
        ("! true", false),
        ("! ! true", true),
        ("! [ a = b ]", true),
        ("[ ! a = b ]", true),
        ("[ ! ! a = b ]", false),
        ("! false", true),
        ("!", true),
    ] {
        let menu = run(MemFs::new(), &format!("if {condition}; then\nmenuentry x {{\n}}\nfi\n"));
        assert_eq!(menu.entries.len(), usize::from(holds), "{condition}");
    }
}

#[test]
fn variables_end_with_their_entry() {
    let text = "set a=1\nset b=1\nsubmenu s {\nset a=2\nunset b\nset c=2\n\
                menuentry x {\nset a=3\nset a=4\nlinux /k $a $b $c\n}\n\
                menuentry y {\nlinux /k $a $b $c\n}\n}\n\
                menuentry z {\nlinux /k $a $b $c\n}\n";
    let menu = run(MemFs::new(), text);
    let cmdlines: Vec<_> = menu.entries.iter().map(|e| e.cmdline.as_str()).collect();
    assert_eq!(cmdlines, ["4 2", "2 2", "1 1"]);
}
