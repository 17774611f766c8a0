//! The page of `--report`.

use std::fs;

use super::scene::Scene;
use crate::common::process::{SYNTHDISK, command, text};

/// A guest whose console tries to be a script. Its QEMU has no monitor, so there are no pictures.
const EVIL: &str = "for n in $(seq 3 60); do eval \"exec $n>&-\"; done; \
     printf '\\033[31m<script>document.title=\"owned\"</script><img src=x onerror=alert(1)>\\033[0m\\r\\n'; \
     echo 'Linux version 6'; printf 'login: '; exec 3<>\"$disk\"; exec sleep 300";

/// The page of two guests, one of which has a hostile name.
fn page(scene: &Scene) -> String {
    let configs = ["good", "<b onclick=x>"].map(|name| {
        let path = scene.path(&format!("{}.cfg", name.len()));
        let text = format!("name = '{name}'\nmemory = 256\ndisk = ['file:web1.img,xvda1,w']\n");
        fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    });
    let dir = scene.path("report");
    let shown = dir.to_string_lossy().into_owned();
    let [a, b] = &configs;
    let log = scene.path("logs/").to_string_lossy().into_owned();
    let args = ["--expect", "login:", "--config", a, "--config", b, "--report", &shown];
    let result = scene.run(&[&args[..], &["--log", &log, "--timeout", "60"]].concat());
    assert!(result.status.success(), "{}", text(&result.stderr));
    fs::read_to_string(dir.join("index.html")).unwrap()
}

#[test]
fn a_page_of_a_fleet() {
    let scene = Scene::new(EVIL);
    let page = page(&scene);
    for part in ["&lt;b onclick=x&gt;", "part1.raw", "passed", "synthdisk finalize --config"] {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(page.matches("<script").count(), 1);
    assert!(page.contains("<span class=\"c1\">&lt;script&gt;"), "the console is not shown");
    scene.assert_clean();

    let image = scene.path("web1.img").to_string_lossy().into_owned();
    let inspected = scene.path("inspect.html").to_string_lossy().into_owned();
    let args = ["inspect", "--bootloader", "none", "--report", &inspected, &image];
    let result = command(SYNTHDISK).args(args).output().unwrap();
    assert!(result.status.success(), "{}", text(&result.stderr));
    assert!(fs::read_to_string(&inspected).unwrap().contains("<h3>Checks</h3>"));
}

/// What needs programs that most machines lack; only in `scripts/test --matrix`.
mod matrix {
    use super::*;
    use std::process::Command;

    /// Chromium runs our script, and no other.
    #[test]
    #[ignore = "needs Chromium"]
    fn nothing_else_runs_in_a_browser() {
        let scene = Scene::new(EVIL);
        page(&scene);
        let url = format!("file://{}", scene.path("report/index.html").display());
        let profile = format!("--user-data-dir={}", scene.path("chromium").display());
        let output = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", &profile, &url])
            .output()
            .expect("chromium is installed (scripts/setup --matrix)");
        let dom = text(&output.stdout);
        assert!(dom.contains("<title>Test boots</title>"), "{dom}");
        // Written by our script.
        assert!(dom.contains("2 of 2 guests"), "{dom}");
        assert!(!dom.contains("<img"), "{dom}");
    }
}
