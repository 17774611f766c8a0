//! The process that examines a guest: what it may cost, when it is asked again, and its death.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::file::{Aligned, direct, write_at};
use crate::common::hash::Untouched;
use crate::common::mount::{Mount, expect_no_mount};
use crate::common::process::{SYNTHDISK, run};
use crate::common::tiny::{INITRD_LEN, Tiny, fake_kernel, initrd, menu, noise};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use synthdisk::loader::direct::{KERNEL_LBA, PARAMS_LBA, Params};

/// Where the root partition starts.
const ROOT_AT: u64 = 64 << 20;
const VERSION: &str = "6.1.0-tiny";

/// The running processes that examine the guest of `mount`: children of its daemons, or of their
/// children.
fn parsers(mount: &Mount) -> Vec<i32> {
    let mut family = mount.daemon_pids();
    let all: Vec<(i32, i32, bool)> = fs::read_dir("/proc")
        .expect("/proc is there")
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
            Some((pid, parent, words.get(1..3) == Some(&[&b"internal"[..], &b"parse"[..]])))
        })
        .collect();
    for _ in 0..2 {
        let known = family.clone();
        family.extend(all.iter().filter(|(_, parent, _)| known.contains(parent)).map(|p| p.0));
    }
    all.iter().filter(|(pid, _, parses)| *parses && family.contains(pid)).map(|p| p.0).collect()
}

fn params(mount: &Mount) -> Params {
    // Past the page cache, which may hold an earlier block.
    let disk = direct(mount.disk(), false);
    let mut block = Aligned::zeroed(4096);
    disk.read_exact_at(block.as_mut(), PARAMS_LBA * 512).expect("the gap is readable");
    Params::decode(&block.as_ref()[..512]).expect("a valid parameter block")
}

/// Replaces the guest's boot menu by way of the mount.
fn set_menu(tiny: &Tiny, mount: &Mount, text: &str) {
    let file = tiny.file("menu");
    fs::write(&file, text).unwrap();
    for request in
        ["rm boot/grub/menu.lst".to_owned(), format!("write {} boot/grub/menu.lst", file.display())]
    {
        run("debugfs", &["-w", "-R", &request, &mount.part(1).to_string_lossy()]);
    }
}

/// A menu with more words than one plan may read.
fn wordy() -> String {
    menu("1") + &format!("title more\n{}", format!("initrd{}\n", " a".repeat(80)).repeat(6000))
}

const TOO_MUCH: &str = "partition 1 of xvda takes too much to examine: more than 400000 words; \
                        remove that in the guest, or boot it with --kernel and --initrd";

#[test]
fn what_takes_too_much_does_not_boot() {
    let tiny = Tiny::with(|tree| fs::write(tree.join("boot/grub/menu.lst"), wordy()).unwrap());
    let said = expect_no_mount(&[tiny.image.to_str().unwrap()]);
    assert!(said.contains(TOO_MUCH), "{said}");
}

#[test]
fn under_a_mount_the_loader_says_so() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let mount = Mount::new(&[], &tiny.image);
    let first = params(&mount);
    assert_eq!(first.message, None);
    set_menu(&tiny, &mount, &wordy());
    assert_eq!(params(&mount).message.as_deref(), Some(TOO_MUCH));
    // The way back.
    set_menu(&tiny, &mount, &menu("1"));
    let again = params(&mount);
    assert_eq!((again.message, again.kernel_bytes), (None, first.kernel_bytes));
    mount.unmount();
    untouched.check();
}

#[test]
fn only_what_was_read_counts() {
    let tiny = Tiny::new();
    let mount = Mount::new(&["--adapt", "none"], &tiny.image);
    let first = params(&mount);
    let before = parsers(&mount);
    // The content of a file that has nothing to do with booting.
    let image = fs::read(&tiny.image).unwrap();
    let data = noise(3 << 20, 7);
    let block = &data[1 << 20..(1 << 20) + 4096];
    let at = image.chunks(4096).position(|c| c == block).expect("the file is in the image") * 4096;
    let part = direct(mount.part(1), true);
    for round in 0..20 {
        let bytes = Aligned::of(&noise(4096, round));
        write_at(&part, bytes.as_ref(), at as u64);
        assert_eq!(params(&mount), first);
    }
    let new = |now: &[i32]| now.iter().filter(|pid| !before.contains(pid)).count();
    assert_eq!(new(&parsers(&mount)), 0, "planned again for nothing");
    drop(part);
    // A directory that was searched.
    set_menu(&tiny, &mount, &menu("1").replace("console=hvc0", "quiet"));
    assert_ne!(params(&mount).token, first.token);
    assert!(new(&parsers(&mount)) > 0, "{before:?}");
    mount.unmount();
}

/// A compressed cpio archive that unpacks to more than the limit, of members that are all the same.
fn bomb(file: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let script = "cd \"$0\" && head -c 33554432 /dev/zero >zeros && echo zeros \
                  | cpio -o -H newc --quiet | gzip -1n >member && cat $(yes member | head -40) >\"$1\"";
    run("sh", &["-c".as_ref(), script.as_ref(), dir.path().as_os_str(), file.as_os_str()]);
}

/// A guest with virtio only as modules, whose initrd `bomb` has to be searched for them.
fn guest_with_a_bomb(entry: &str) -> Tiny {
    Tiny::with(|tree| {
        let dir = tree.join("lib/modules").join(VERSION);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("modules.dep"), "kernel/drivers/block/virtio_blk.ko:\n").unwrap();
        fs::write(dir.join("modules.builtin"), "kernel/drivers/ata/ahci.ko\n").unwrap();
        bomb(&tree.join("boot/initrd.img-bomb"));
        fs::write(tree.join("boot/grub/menu.lst"), entry).unwrap();
    })
}

fn bomb_menu() -> String {
    menu("1").replace("/boot/initrd.img-1", "/boot/initrd.img-bomb")
}

#[test]
fn an_initrd_bomb_is_a_warning() {
    let tiny = guest_with_a_bomb(&bomb_menu());
    let mount = Mount::new(&["--adapt", "initrd"], &tiny.image);
    let said = mount.printed();
    assert!(said.contains("more than 1073741824 bytes in unpacked initrds"), "{said}");
    assert_eq!(params(&mount).message, None);
    mount.unmount();
}

/// Kills what examines the guest while a plan is being made.
#[test]
fn killed_while_it_plans() {
    let tiny = guest_with_a_bomb(&menu("1"));
    let untouched = Untouched::remember(&tiny.image);
    let mount = Mount::new(&["--adapt", "initrd"], &tiny.image);
    assert_eq!(params(&mount).message, None);
    set_menu(&tiny, &mount, &bomb_menu());
    let before = parsers(&mount);
    let message = std::thread::scope(|scope| {
        let planned = scope.spawn(|| params(&mount).message);
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let new = parsers(&mount).into_iter().find(|pid| !before.contains(pid));
            if let Some(pid) = new {
                kill(Pid::from_raw(pid), Signal::SIGKILL).expect("our own process");
                break;
            }
            assert!(Instant::now() < deadline, "nothing was planned");
            std::thread::sleep(Duration::from_millis(2));
        }
        planned.join().expect("no panic")
    });
    let message = message.expect("there is no plan");
    assert!(message.contains("could not be examined: the process that reads"), "{message}");
    // The disk is as it was.
    mount.fsck();
    let menu_now = mount.guest_file("/boot/grub/menu.lst");
    assert_eq!(menu_now.as_deref(), Some(bomb_menu().as_str()));
    set_menu(&tiny, &mount, &menu("1"));
    assert_eq!(params(&mount).message, None);
    mount.unmount();
    untouched.check();
}

/// Kills what reads the kernel between two reads of it.
#[test]
fn killed_while_the_guest_boots() {
    let tiny = Tiny::new();
    let mount = Mount::new(&["--adapt", "none"], &tiny.image);
    let disk = direct(mount.disk(), false);
    let kernel = fake_kernel(1);
    let params = params(&mount);
    let (initrd_lba, initrd_len) = params.initrd.expect("it has one");
    let read = |at: u64, len: usize| {
        let mut bytes = Aligned::zeroed(len.next_multiple_of(4096));
        disk.read_exact_at(bytes.as_mut(), at).expect("the gap is readable");
        bytes.as_ref()[..len].to_vec()
    };
    for round in 0..3u64 {
        // Each piece comes from another process, and the last one from none that was killed.
        let at = round * (100 << 10);
        let len = (100 << 10).min(kernel.len() - at as usize);
        let got = read(KERNEL_LBA * 512 + at, len);
        assert!(got == kernel[at as usize..][..len], "round {round}: other bytes");
        for pid in parsers(&mount) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("our own process");
        }
    }
    assert_eq!(initrd_len as usize, INITRD_LEN);
    assert!(read(initrd_lba * 512, INITRD_LEN) == initrd(101), "another initrd");
    assert!(read(ROOT_AT + (1 << 20), 4096) == fs::read(&tiny.image).unwrap()[1 << 20..][..4096]);
    drop(disk);
    mount.unmount();
}

/// A package's update replaces the program while it serves a mount.
#[test]
fn a_replaced_program_goes_on() {
    let tiny = Tiny::new();
    let program = tiny.file("synthdisk");
    // By another process: a copy that this one had open for writing could not be executed.
    run("cp", &[Path::new(SYNTHDISK), &program]);
    let dir = tiny.file("mnt");
    fs::create_dir(&dir).unwrap();
    run(&program, &["mount".as_ref(), tiny.image.as_os_str(), dir.as_os_str()]);
    let mount = Mount::adopt(&dir);
    let first = params(&mount);
    fs::remove_file(&program).unwrap();
    fs::write(&program, "another program\n").unwrap();
    set_menu(&tiny, &mount, &menu("1").replace("console=hvc0", "quiet"));
    let second = params(&mount);
    assert_eq!(second.message, None);
    assert_ne!(second.token, first.token);
    mount.unmount();
}
