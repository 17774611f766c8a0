//! `kill -9` of the daemon while a guest writes: what the guest was told is stored, is stored.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use common::console::{Disk, Guest, plain};
use common::guests::mini_guest;
use common::hash::Untouched;
use common::mount::Mount;
use common::process::{output, run, text};

const BOOT: Duration = Duration::from_secs(120);

/// Writes files of random bytes in 16 names, new ones and over old ones; tells name and checksum of
/// each after fsync.
const WRITER: &str = "n=0; while :; do n=$((n+1)); f=/root/f$((n%16)); \
     dd if=/dev/urandom of=$f.new bs=1000 count=$((n*37%300+1)) 2>/dev/null; \
     s=$(sha256sum <$f.new | cut -d' ' -f1); mv $f.new $f; sync; \
     printf '<%s %s %s>\\n' stored $f $s; done";

fn killed_while_writing(cache: &'static str) {
    let image = mini_guest();
    let untouched = Untouched::remember(&image);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let overlay = dir.path().join("overlay.qcow2");
    let overlay = overlay.to_str().expect("UTF-8");
    let options = ["--overlay", overlay];

    // Again and again on the same overlay; each boot but the first finds a dirty journal.
    for round in 0..3 {
        let mount = Mount::new(&options, &image);
        let mut guest = Guest::builder().disk(Disk::new(mount.disk()).cache(cache)).start();
        guest.login("root", "root", BOOT);
        guest.send_line(WRITER);
        for _ in 0..10 + 13 * round {
            guest.expect("<stored ", BOOT);
        }
        let pids = mount.daemon_pids();
        assert_eq!(pids.len(), 1, "daemons of {}: {pids:?}", mount.dir().display());
        kill(Pid::from_raw(pids[0]), Signal::SIGKILL).expect("our own daemon");
        // What was told before is stored; what QEMU got no answer to may be or not.
        std::thread::sleep(Duration::from_millis(300));
        guest.kill();
        let console = plain(&guest.console());
        mount.detach_dead();

        let check = output("qemu-img", &["check", overlay]);
        // 3: clusters that nobody refers to, which cost space and nothing else.
        assert!(matches!(check.status.code(), Some(0 | 3)), "{}", text(&check.stdout));

        let mount = Mount::new(&options, &image);
        let part = mount.part(1);
        let journal = output("e2fsck", &["-E".as_ref(), "journal_only".as_ref(), part.as_os_str()]);
        assert!(matches!(journal.status.code(), Some(0 | 1)), "{}", text(&journal.stdout));
        mount.fsck();
        let (stored, last) = acknowledged(&console);
        eprintln!("round {round}: {} files of the guest are to be there", stored.len());
        assert!(!stored.is_empty());
        for (file, sum) in stored {
            // The writer may have been at work on the next one of this name.
            let here = format!("{}/file", dir.path().display());
            run("debugfs", &["-R", &format!("dump {file} {here}"), &part.to_string_lossy()]);
            let found = common::hash::sha256(&here);
            assert!(found == sum || Some(&file) == last.as_ref(), "{file} is not what was stored");
        }
        mount.unmount();
        run("qemu-img", &["check", "-r", "leaks", overlay]);
    }
    untouched.check();
}

/// Of each file the checksum told last, and the name that came next.
fn acknowledged(console: &str) -> (HashMap<String, String>, Option<String>) {
    let mut stored = HashMap::new();
    let mut count = 0;
    for words in console.split('<').filter_map(|s| s.strip_prefix("stored ")) {
        let Some((words, _)) = words.split_once('>') else { continue };
        let Some((file, sum)) = words.split_once(' ') else { continue };
        stored.insert(file.to_string(), sum.to_string());
        count += 1;
    }
    (stored, Some(format!("/root/f{}", (count + 1) % 16)))
}

#[test]
#[ignore = "boots QEMU"]
fn what_was_stored_survives_a_kill_with_cache_none() {
    killed_while_writing("none");
}

#[test]
#[ignore = "boots QEMU"]
fn what_was_stored_survives_a_kill_with_cache_writeback() {
    killed_while_writing("writeback");
}
