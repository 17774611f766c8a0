//! The process that fetches: what it may do, and what happens without it.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Scene, UNREAD, read};
use crate::common::mount::{Mount, children, has_ended, is_started_as};
use crate::common::overlay::wait_until;
use crate::common::process::is_root;

fn fetcher(mount: &Mount) -> i32 {
    let found = children(mount.server_pid()).into_iter().find(|pid| is_started_as(*pid, "fetch"));
    found.expect("a fetcher")
}

#[test]
fn the_fetcher_has_no_rights_but_to_connect() {
    let scene = Scene::new();
    let mount = scene.mount_with(&["--sandbox", "auto"]);
    let fetcher = fetcher(&mount);
    let status = fs::read_to_string(format!("/proc/{fetcher}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    assert_eq!((field("Seccomp").as_str(), field("NoNewPrivs").as_str()), ("2", "1"));
    assert_eq!(field("CapEff").trim_matches('0'), "");
    if is_root() {
        assert!(!field("Uid").split_whitespace().any(|id| id == "0"), "{status}");
    }
    // It has descriptors of the cache, of sockets, and of nothing else.
    let links = fs::read_dir(format!("/proc/{fetcher}/fd")).unwrap().flatten();
    for link in links.filter_map(|link| fs::read_link(link.path()).ok()) {
        let link = link.to_string_lossy().into_owned();
        let known = link.starts_with("socket:") || link.starts_with(scene.cache_dir());
        assert!(known || link == "/dev/null", "{link}");
    }
    // The server has no socket that leads out of this host.
    let server = fs::read_to_string(format!("/proc/{}/status", mount.server_pid())).unwrap();
    assert!(server.contains("Seccomp:\t2"));
    mount.unmount();
    wait_until("the fetcher ends", || has_ended(fetcher));
}

#[test]
fn without_its_fetcher_a_mount_has_what_was_fetched() {
    let scene = Scene::new();
    let mount = scene.mount();
    let here = read(mount.part(1), 0, 4096).unwrap();
    let fetcher = fetcher(&mount);
    kill(Pid::from_raw(fetcher), Signal::SIGKILL).unwrap();
    wait_until("the fetcher ends", || has_ended(fetcher));
    assert!(read(mount.part(1), UNREAD, 4096).is_err());
    assert_eq!(read(mount.part(1), 0, 4096).unwrap(), here);
    mount.unmount();
}
