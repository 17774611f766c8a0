//! `kill -9` of the daemon while a guest writes: what the guest was told is stored, is stored.

use std::collections::BTreeMap;
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::console::{Disk, Guest, plain};
use crate::common::guests::mini_guest;
use crate::common::hash::{Untouched, sha256};
use crate::common::mount::{Mount, has_ended};
use crate::common::overlay::wait_until;
use crate::common::process::{output, run, text};

const BOOT: Duration = Duration::from_secs(120);
const SLOTS: u64 = 16;

/// A new file of random bytes, a line more in a log, and the number of the round in one of 16
/// blocks of a file that was written before; then sync, then number and checksum on the console.
fn writer(round: u32) -> String {
    format!(
        "mkdir /root/{round}; cd /root/{round}; n=0; while :; do n=$((n+1)); \
         dd if=/dev/urandom of=f$n bs=1000 count=$((n*37%300+1)) 2>/dev/null; echo $n >>log; \
         printf '%04095d\\n' $n | dd of=slots bs=4096 seek=$((n%{SLOTS})) conv=notrunc 2>/dev/null; \
         s=$(sha256sum <f$n | cut -d' ' -f1); sync; printf '<%s %s %s>\\n' stored $n $s; done"
    )
}

fn killed_while_writing(cache: &'static str) {
    let image = mini_guest();
    let untouched = Untouched::remember(&image);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let overlay = dir.path().join("overlay.qcow2");
    let overlay = overlay.to_str().expect("UTF-8");
    let options = ["--overlay", overlay];
    let mut rounds = Vec::new();

    // Again and again on the same overlay; each boot but the first comes after a crash.
    for round in 0..3 {
        let mount = Mount::new(&options, &image);
        let mut guest = Guest::builder().disk(Disk::new(mount.disk()).cache(cache)).start();
        guest.login("root", "root", BOOT);
        guest.send_line(&writer(round));
        for _ in 0..10 + 13 * round {
            guest.expect("<stored ", BOOT);
        }
        let server = mount.server_pid();
        // Only what was told by now counts: `sync` doesn't say when it failed.
        let told = told(&plain(&guest.console()));
        kill(Pid::from_raw(server), Signal::SIGKILL).expect("our own server");
        guest.kill();
        // Until it is gone, the overlay is locked.
        wait_until("the killed daemon is gone", || has_ended(server));
        mount.detach_dead();
        eprintln!("round {round}: {} files of the guest are to be there", told.len());
        assert!(told.len() > 8);
        rounds.push(told);

        let check = output("qemu-img", &["check", overlay]);
        // 3: clusters that nobody refers to, which cost space and nothing else.
        assert!(matches!(check.status.code(), Some(0 | 3)), "{}", said(&check));

        // The later rounds' mounts look into a filesystem with a dirty journal.
        let mount = Mount::new(&options, &image);
        let part = mount.part(1).to_string_lossy().into_owned();
        let journal = output("e2fsck", &["-y", "-E", "journal_only", &part]);
        assert!(matches!(journal.status.code(), Some(0 | 1)), "{}", said(&journal));
        mount.fsck();
        let copy = |path: &str| {
            let to = format!("{}/copy", dir.path().display());
            run("debugfs", &["-R", &format!("dump {path} {to}"), &part]);
            to
        };
        for (round, told) in rounds.iter().enumerate() {
            for (n, sum) in told {
                let found = sha256(copy(&format!("/root/{round}/f{n}")));
                assert_eq!(&found, sum, "round {round}, file {n}");
            }
            let log = std::fs::read_to_string(copy(&format!("/root/{round}/log"))).expect("a log");
            let last = *told.keys().last().expect("not empty");
            let lines: Vec<u64> = log.lines().map_while(|l| l.parse().ok()).collect();
            assert!(lines.len() as u64 >= last, "round {round}: {last} lines in {log:?}");
            assert!(lines.iter().zip(1..).all(|(l, n)| *l == n), "round {round}: {log:?}");
            let slots = std::fs::read(copy(&format!("/root/{round}/slots"))).expect("slots");
            for n in (1..=last).rev().take(SLOTS as usize) {
                let slot = (n % SLOTS) as usize * 4096;
                let found = text(&slots[slot..slot + 4096]).trim().parse::<u64>();
                let newer = found.as_ref().is_ok_and(|found| *found >= n);
                assert!(newer, "round {round}: {n} was stored and there is {found:?}");
            }
        }
        mount.unmount();
        run("qemu-img", &["check", "-r", "leaks", overlay]);
    }
    untouched.check();
}

/// The checksums that the guest told, by the files' numbers.
fn told(console: &str) -> BTreeMap<u64, String> {
    let told = console.split('<').filter_map(|s| s.strip_prefix("stored ")?.split_once('>'));
    told.filter_map(|(words, _)| {
        let (n, sum) = words.split_once(' ')?;
        Some((n.parse().ok()?, sum.to_string()))
    })
    .collect()
}

fn said(output: &Output) -> String {
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

#[test]
#[ignore = "boots QEMU"]
fn what_was_stored_survives_a_kill_with_cache_none() {
    killed_while_writing("none");
}

/// Only in `scripts/test --matrix`.
mod matrix {
    use super::*;

    #[test]
    #[ignore = "boots QEMU"]
    fn what_was_stored_survives_a_kill_with_cache_writeback() {
        killed_while_writing("writeback");
    }
}
