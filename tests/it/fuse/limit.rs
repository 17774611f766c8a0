//! `--overlay-limit`: a guest cannot fill the host's filesystem.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::common::file::{bytes_of, writer};
use crate::common::mount::Mount;
use crate::common::overlay::{Case, daemon};
use crate::common::process::{expect_failure, run};
use crate::common::tiny::noise;
use serde_json::Value;

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 6 * MIB;
const STEP: usize = 256 << 10;
/// Where the test writes on the swap partition.
const START: u64 = MIB;

fn write(mount: &Mount, step: u64) -> io::Result<()> {
    let file = writer(mount.part(2));
    file.write_all_at(&noise(STEP, step), START + step * STEP as u64)?;
    file.sync_all()
}

/// Use and limit of the first disk's overlay, as the status shows them.
fn status(mount: &Mount) -> (u64, Option<u64>) {
    let text = fs::read_to_string(mount.dir().join(".synthdisk.json")).unwrap();
    let status: Value = serde_json::from_str(&text).unwrap();
    let disk = &status["disks"][0];
    (disk["overlay_bytes"].as_u64().unwrap(), disk["overlay_limit"].as_u64())
}

#[test]
fn an_overlay_does_not_grow_past_its_limit() {
    for persistent in [false, true] {
        let case = Case::new();
        let options = ["--swap", "32M", "--overlay-limit", "6M"];
        let mount = match persistent {
            true => case.mount_with(&options),
            false => Mount::new(&options, &case.tiny.image),
        };
        let before = daemon(&mount);
        let mut written = 0;
        let error = loop {
            match write(&mount, written) {
                Ok(()) => written += 1,
                Err(e) => break e,
            }
            assert!(written < 100, "the limit is never reached");
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
        // Not much less than the limit can be used.
        assert!(written * STEP as u64 > LIMIT - MIB, "{written} steps");
        for step in 60..100 {
            assert!(write(&mount, step).is_err());
        }
        let (used, limit) = status(&mount);
        assert!(used <= LIMIT && used > LIMIT - MIB, "{used} bytes in use");
        assert_eq!(limit, Some(LIMIT));
        if persistent {
            let stored = fs::metadata(&case.overlay).unwrap().blocks() * 512;
            assert!(stored <= LIMIT, "{stored} bytes stored");
        }
        for step in 0..written {
            let stored = bytes_of(mount.part(2), START + step * STEP as u64, STEP);
            assert!(stored == noise(STEP, step), "step {step}");
        }
        // What is overwritten needs no space, and what is discarded makes some.
        write(&mount, 0).unwrap();
        let part = mount.part(2);
        run("fallocate", &["-p", "-o", "1M", "-l", "2M", &part.to_string_lossy()]);
        assert!(status(&mount).0 <= used - 2 * MIB + 64 * 1024);
        (70..76).for_each(|step| write(&mount, step).unwrap());
        assert_eq!(daemon(&mount), before);
        mount.unmount();
        if persistent {
            case.check();
            // The limit is not part of the overlay.
            let mount = case.mount();
            assert_eq!(status(&mount).1, None);
            (60..90).for_each(|step| write(&mount, step).unwrap());
            mount.unmount();
            case.check();
        }
        case.untouched.check();
    }
}

#[test]
fn a_limit_needs_an_overlay() {
    let case = Case::new();
    let image = case.tiny.image.to_string_lossy();
    let args = ["mount", "--read-only", "--overlay-limit", "6M", &image, "/nonexistent"];
    expect_failure(&args, 2);
}
