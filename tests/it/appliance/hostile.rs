//! Kernels of guests that do not edit, and hosts that cannot run them: the guest is served as it is, and
//! that is said.

use super::guests::served;
use super::tree::{CONFIG, tree_with};
use crate::common::field::Field;
use crate::common::foreign::make_xfs;
use crate::common::process::{SYNTHDISK, run_text};
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
