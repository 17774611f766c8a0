//! Kernels of guests that do not edit, and hosts that cannot run them: the guest is served as it is, and
//! that is said.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::guests::served;
use super::tree::{CONFIG, tree_with};
use crate::common::field::Field;
use crate::common::foreign::make_xfs;
use crate::common::mount::{children, is_started_as};
use crate::common::process::{SYNTHDISK, command, run_text};
use crate::common::slots::Slot;
use crate::common::tiny::fake_kernel;

/// Where the header of a bzImage jumps to, and what it does there.
const CODE: usize = 0x268;

/// A guest on XFS whose kernel executes `code` in real mode and claims to have its drivers built in.
fn guest(code: &[u8], builtin: &str) -> (Field, String) {
    let field = Field::new();
    let mut kernel = fake_kernel(1);
    kernel[0x200..0x202].copy_from_slice(&[0xeb, (CODE - 0x202) as u8]);
    kernel[CODE..CODE + code.len()].copy_from_slice(code);
    let tree = tree_with(&field, &kernel, "6.1.0-tiny");
    let modules = tree.join("lib/modules/6.1.0-tiny");
    std::fs::write(modules.join("modules.dep"), "").unwrap();
    std::fs::write(modules.join("modules.builtin"), builtin).unwrap();
    let image = field.path("root.img");
    make_xfs(&image, 300 << 20, &[], &tree);
    field.swap("swap.img", 1 << 20, "oldswap");
    field.guard(&image);
    let config = field.config(CONFIG);
    (field, config)
}

const BUILTIN: &str = "k/virtio_pci.ko\nk/virtio_blk.ko\nk/xfs.ko\n";

/// The note that the guest is not adapted.
fn note(said: &str) -> String {
    assert!(!said.contains("adapted: "), "{said}");
    let note = said.lines().find(|line| line.contains("the guest is not adapted"));
    note.unwrap_or_else(|| panic!("no note: {said}")).to_owned()
}

#[test]
fn a_kernel_that_hangs_is_stopped() {
    // jmp to itself
    let (field, config) = guest(&[0xeb, 0xfe], BUILTIN);
    let _slot = Slot::take();
    let server = served(&field, &config, &["--edit-time=2"]);
    let note = note(&server.printed());
    assert!(
        note.contains("(Linux 6.1.0-tiny) did not edit it: it was stopped after 2 s"),
        "{note}"
    );
    assert!(note.contains("not known what is edited"), "{note}");
    // The disk is served all the same.
    let list = run_text("qemu-img", &["info", &server.uri("part2.raw")]);
    assert!(list.contains("300 MiB"), "{list}");
}

#[test]
fn a_kernel_that_ends_is_noticed() {
    // mov al, 0xfe; out 0x64, al: the keyboard controller resets the machine; then hlt
    let (field, config) = guest(&[0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd], BUILTIN);
    let _slot = Slot::take();
    let server = served(&field, &config, &[]);
    let note = note(&server.printed());
    assert!(note.contains("it ended without an answer"), "{note}");
    assert!(note.contains("--edit-with kernel"), "{note}");
}

#[test]
fn a_kernel_without_drivers_is_not_started() {
    let (field, config) = guest(&[0xeb, 0xfe], "k/virtio_pci.ko\nk/virtio_blk.ko\n");
    let report = run_text(SYNTHDISK, &["inspect", "--config", &config]);
    let why = "the guest has no module xfs for its kernel 6.1.0-tiny";
    assert!(report.contains("edits left out that it needs"), "{report}");
    assert!(report.contains(&format!("the edits are not made on this host: {why}")), "{report}");
    let server = served(&field, &config, &[]);
    let note = note(&server.printed());
    assert!(note.ends_with(why), "{note}");
}

/// Writes 32 KiB after 32 KiB to the first disk, by the firmware, until that fails; then resets the machine.
#[rustfmt::skip]
const FILL: [u8; 48] = [
    0x8c, 0xc8, 0x8e, 0xd8,             // mov ax, cs; mov ds, ax: offset 0 is byte 0x200 of the file
    0xbe, 0x88, 0x00,                   // again: mov si, packet
    0xb8, 0x00, 0x43,                   // mov ax, 0x4300
    0xb2, 0x80,                         // mov dl, 0x80
    0xcd, 0x13,                         // int 0x13
    0x72, 0x07,                         // jc end
    0x83, 0x06, 0x90, 0x00, 0x40,       // add word [packet + 8], 64
    0xeb, 0xed,                         // jmp again
    0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd, // end: mov al, 0xfe; out 0x64, al; hlt; jmp to hlt
    0x90, 0x90,
    // packet: 16 bytes, 64 sectors, from 0x1000:0, to sector 0
    0x10, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
];

#[test]
fn writes_that_are_not_stored_are_told_with_their_cause() {
    let (field, config) = guest(&FILL, BUILTIN);
    let _slot = Slot::take();
    let server = served(&field, &config, &["--overlay-limit=1M"]);
    let note = note(&server.printed());
    let why = "its writes could not be stored, and it is not known what is edited: the overlay has \
               reached its limit of 1048576 bytes";
    assert!(note.contains(why), "{note}");
}

/// Whether `pid` or a process that it has started is QEMU, editing.
fn edits(pid: i32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_qemu = line.split(|b| *b == 0).any(|word| word == b"synthdisk-edit");
    is_qemu || children(pid).into_iter().any(edits)
}

#[test]
fn a_signal_while_it_edits_leaves_nothing() {
    let (field, config) = guest(&[0xeb, 0xfe], BUILTIN);
    let _slot = Slot::take();
    let (overlay, socket) = (field.arg("new.qcow2"), field.arg("s"));
    let mut started = command(SYNTHDISK)
        .args(["serve", "--nbd", &socket, "--config", &config])
        .args(["--edit-time=600", "--overlay", &overlay])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = started.id() as i32;
    let end = Instant::now() + Duration::from_secs(300);
    while !edits(pid) {
        assert!(Instant::now() < end && started.try_wait().unwrap().is_none(), "it does not edit");
        std::thread::sleep(Duration::from_millis(5));
    }
    let keeper = children(pid).into_iter().find(|pid| is_started_as(*pid, "mount")).unwrap();
    assert!(Path::new(&overlay).exists());
    kill(Pid::from_raw(keeper), Signal::SIGTERM).unwrap();
    assert!(!started.wait().unwrap().success());
    assert!(!Path::new(&overlay).exists());
}
