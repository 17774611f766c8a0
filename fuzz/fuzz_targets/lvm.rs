//! Physical volumes of LVM. If the first byte is even, the rest is the bytes of one; if it is odd,
//! the rest is the text of its metadata, which gets valid checksums. Start from what `pvcreate`,
//! `vgcreate` and `vgcfgbackup` make. No input may make more than 256 MiB of allocations live.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use synthdisk::bytes::ReadAt;
use synthdisk::lvm::{PhysicalVolume, VolumeBytes, survey};

const CAP: usize = 256 << 20;

/// Aborts when more than [`CAP`] bytes are allocated at once.
struct Capped;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls go to the system's allocator.
unsafe impl GlobalAlloc for Capped {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if LIVE.fetch_add(layout.size(), Ordering::Relaxed) > CAP {
            std::process::abort();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Capped = Capped;

fn crc(data: &[u8]) -> u32 {
    data.iter().fold(0xf597_a6cf, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| (c >> 1) ^ (0xedb8_8320 * (c & 1)))
    })
}

/// A physical volume of 1 MiB with this metadata.
fn with_text(text: &[u8]) -> Vec<u8> {
    const AREA: usize = 4096;
    const AREA_LEN: usize = 960 << 10;
    let mut bytes = vec![0; 1 << 20];
    let text = &text[..text.len().min(AREA_LEN - 512)];
    let label = &mut bytes[512..1024];
    label[..8].copy_from_slice(b"LABELONE");
    label[8] = 1;
    label[20] = 32;
    label[24..32].copy_from_slice(b"LVM2 001");
    label[32..64].fill(b'a');
    label[72..80].copy_from_slice(&(1_u64 << 20).to_le_bytes());
    label[104..112].copy_from_slice(&(AREA as u64).to_le_bytes());
    label[112..120].copy_from_slice(&(AREA_LEN as u64).to_le_bytes());
    let sum = crc(&label[20..]);
    label[16..20].copy_from_slice(&sum.to_le_bytes());
    let area = &mut bytes[AREA..AREA + AREA_LEN];
    area[512..512 + text.len()].copy_from_slice(text);
    area[4..20].copy_from_slice(b"\x20LVM2\x20x[5A%r0N*>");
    area[20] = 1;
    area[24..32].copy_from_slice(&(AREA as u64).to_le_bytes());
    area[32..40].copy_from_slice(&(AREA_LEN as u64).to_le_bytes());
    area[40..48].copy_from_slice(&512_u64.to_le_bytes());
    area[48..56].copy_from_slice(&(text.len() as u64).to_le_bytes());
    area[56..60].copy_from_slice(&crc(text).to_le_bytes());
    let sum = crc(&area[4..512]);
    area[..4].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let bytes = if kind % 2 == 0 { rest.to_vec() } else { with_text(rest) };
    let found = survey(&[PhysicalVolume { name: "it", bytes: &bytes }]);
    for volume in found.volumes {
        volume.map.check(&[bytes.len() as u64]).expect("what was found is inside");
        let volume = VolumeBytes::new(volume.map, vec![bytes.clone()]);
        let mut buf = [0; 512];
        for place in 0..16 {
            let offset = volume.len() / 16 * place;
            let len = buf.len().min((volume.len() - offset) as usize);
            volume.read_at(&mut buf[..len], offset).expect("it is all there");
        }
    }
});
