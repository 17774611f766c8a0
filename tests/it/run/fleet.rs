//! Fleets: results that survive a kill, shares, exit codes. QEMU is a shell script.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;

use super::scene::Scene;
use crate::common::overlay::wait_until;
use crate::common::process::{command, run_text, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Each guest does what its name says, and leaves a line in `started`. Guests named `slow` wait until
/// there is a file `go`.
const BY_NAME: &str = "name=$(printf '%s\\n' \"$@\" | sed -n 's/^guest=\\([^,]*\\).*/\\1/p')\n\
     echo $name >>$home/started\n\
     case $name in slow*) while [ ! -e $home/go ]; do sleep 0.05; done;; \
       crash*) kill -SEGV $$;; panic*) echo 'Kernel panic - not syncing: x';; esac\n\
     echo 'Linux version 6'; printf 'login: '; exec 3<>\"$disk\"; exec sleep 300";

/// A list of configs with these names.
fn list(scene: &Scene, names: &[&str]) -> String {
    let lines: Vec<_> = names.iter().map(|n| scene.config(n).display().to_string()).collect();
    let path = scene.path("list");
    fs::write(&path, format!("# guests\n{}\n", lines.join("\n"))).unwrap();
    path.to_string_lossy().into_owned()
}

fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The verdict of each guest; every guest must be there once.
fn verdicts(records: &[Value]) -> BTreeMap<String, String> {
    let word = |v: &Value| v.as_str().unwrap().to_owned();
    let all: BTreeMap<_, _> =
        records.iter().map(|r| (word(&r["guest"]), word(&r["verdict"]))).collect();
    assert_eq!(all.len(), records.len(), "a guest is there twice: {records:?}");
    all
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{}", text(&output.stderr)))
}

/// What the scene's fake QEMU was started for, in order.
fn started(scene: &Scene) -> Vec<String> {
    let lines = fs::read_to_string(scene.path("started")).unwrap_or_default();
    lines.lines().map(str::to_owned).collect()
}

#[test]
fn what_was_killed_goes_on() {
    let scene = Scene::new(BY_NAME);
    let list = list(&scene, &["a", "panic1", "slow1", "b"]);
    let results = scene.path("r.jsonl");
    let file = results.to_string_lossy();
    let args = ["--expect", "login:", "--configs-from", &list, "--resume", &file];
    let child = scene.command(&args).spawn().unwrap();
    wait_until("the third guest runs", || started(&scene).len() == 3);
    let busy = scene.run(&args);
    assert_eq!(code(&busy), 3, "{}", text(&busy.stderr));
    assert!(text(&busy.stderr).contains("in use by another synthdisk"));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).unwrap();
    child.wait_with_output().unwrap();
    scene.assert_clean();
    // As if it had been killed while it wrote.
    let mut text_of_file = fs::read_to_string(&results).unwrap();
    assert_eq!(text_of_file.lines().count(), 2);
    text_of_file.push_str("{\"schema_version\":1,\"gue");
    fs::write(&results, text_of_file).unwrap();

    fs::write(scene.path("go"), "").unwrap();
    let result = scene.run(&args);
    let (stdout, stderr) = (text(&result.stdout), text(&result.stderr));
    assert_eq!(code(&result), 1, "panic1 failed in the first run: {stdout}{stderr}");
    assert!(stderr.contains("note:    2 of 4 guests have a result already"), "{stderr}");
    assert_eq!(started(&scene), ["a", "panic1", "slow1", "slow1", "b"]);
    assert_eq!(stdout.lines().count(), 5, "{stdout}");
    let all = verdicts(&records(&results));
    let expected = [("a", "passed"), ("b", "passed"), ("panic1", "failed"), ("slow1", "passed")];
    assert!(all.iter().map(|(k, v)| (k.as_str(), v.as_str())).eq(expected), "{all:?}");
    scene.assert_clean();

    // Nothing is left to do; another test is not mixed with this one.
    assert_eq!(code(&scene.run(&args)), 1);
    assert_eq!(started(&scene).len(), 5);
    let other = scene.run(&["--expect", "x", "--configs-from", &list, "--resume", &file]);
    assert!(text(&other.stderr).contains("another test (--expect 'login:')"));
    let fresh = scene.run(&["--expect", "login:", "--configs-from", &list, "--results", &file]);
    assert!(text(&fresh.stderr).contains("contains results"), "{}", text(&fresh.stderr));
    assert_eq!((code(&other), code(&fresh)), (2, 2));
    scene.assert_clean();
}

#[test]
fn the_host_is_told_from_the_guest() {
    let scene = Scene::new(BY_NAME);
    let image = scene.path("web1.img");
    let image = image.to_string_lossy();
    for (args, expected, part) in [
        (&["--expect", "login:", &image][..], 0, ""),
        (&["--expect", "login:", "/nonexistent.img"], 1, "/nonexistent.img"),
        (&["--expect", "login:", "--memory", "1000000G", &image], 3, "needs 1024000000 MiB"),
        (
            &["--expect", "login:", "--json", "/proc/x/r.json", &image],
            3,
            "cannot write the results",
        ),
        (&["--expect", "login:", "--log", "/proc/x/", &image], 3, "cannot make the directory"),
        (&["--expect", "login:", "--ssh-key", "/nonexistent", &image], 2, "/nonexistent"),
        (&["--expect", "login:", "--configs-from", "/nonexistent"], 2, "/nonexistent"),
        (&["--expect", "login:", "--jobs", "0", &image], 2, "auto"),
        (&["--expect", "login:", "--shard", "3/2", &image], 2, "invalid shard"),
        (&["--expect", "login:", "--shard", "auto", &image], 2, "SLURM_ARRAY_TASK_ID"),
    ] {
        let result = scene.run(args);
        let stderr = text(&result.stderr);
        assert_eq!(code(&result), expected, "{args:?}: {stderr}");
        assert!(stderr.contains(part), "{args:?}: {stderr}");
        scene.assert_clean();
    }
    // A QEMU that crashes has told nothing about its guest, and is tried again.
    let list = list(&scene, &["a", "crash1"]);
    let results = scene.path("r.jsonl");
    let file = results.to_string_lossy();
    let args = ["--expect", "login:", "--configs-from", &list, "--resume", &file, "--jobs", "auto"];
    for _ in 0..2 {
        let result = scene.run(&args);
        assert_eq!(code(&result), 3, "{}", text(&result.stderr));
        assert!(text(&result.stderr).contains("1 of them because of this host"));
    }
    let all = records(&results);
    let faults: Vec<_> = all.iter().filter(|r| r["guest"] == "crash1").collect();
    assert_eq!(faults.len(), 2, "{all:?}");
    assert!(faults.iter().all(|r| r["fault"] == "host" && r["verdict"] == "error"), "{all:?}");
    assert_eq!(started(&scene).iter().filter(|name| *name == "a").count(), 1);
}

#[test]
fn shares_are_merged() {
    let scene = Scene::new(BY_NAME);
    let names = ["a", "b", "panic1", "c", "d"];
    let list = list(&scene, &names);
    let file = |i: u32| scene.path(&format!("r{i}.jsonl")).to_string_lossy().into_owned();
    let task = |i: u32| {
        let results = file(i);
        let args = ["--expect", "login:", "--configs-from", &list, "--resume", &results];
        let mut command = scene.command(&args);
        let engine = [("ID", i), ("MIN", 1), ("COUNT", 2), ("STEP", 1)];
        for (name, value) in engine {
            command.env(format!("SLURM_ARRAY_TASK_{name}"), value.to_string());
        }
        command.args(["--shard", "auto"]).output().unwrap()
    };
    let merge = |more: &[&str]| {
        let files = [file(1), file(2)];
        let known = files.iter().filter(|f| Path::new(f).exists()).map(String::as_str);
        let args: Vec<_> = ["report", "merge"].into_iter().chain(known).collect();
        command(crate::common::process::SYNTHDISK).args(args).args(more).output().unwrap()
    };
    fs::write(file(1), "").unwrap();
    let none = merge(&[]);
    assert_eq!(code(&none), 3);
    assert!(text(&none.stderr).contains("no guest has been tested"), "{}", text(&none.stderr));
    let first = task(1);
    assert_eq!(code(&first), 1, "{}", text(&first.stderr));
    fs::write(file(2), "").unwrap();
    let half = merge(&[]);
    assert_eq!(code(&half), 3);
    assert!(text(&half.stderr).contains("2 of 5 guests have no result yet"));
    assert_eq!(code(&task(2)), 0);
    let mut begun = started(&scene);
    begun.sort();
    assert_eq!(begun, ["a", "b", "c", "d", "panic1"]);

    let whole = merge(&["--results", "-"]);
    assert_eq!(code(&whole), 1, "{}", text(&whole.stderr));
    let lines = text(&whole.stdout);
    let all: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let order: Vec<_> = all.iter().map(|r| r["guest"].as_str().unwrap()).collect();
    assert_eq!(order, names);
    let json = merge(&["--json", "-"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["passed"], &json["schema_version"]), (&4.into(), &1.into()));
}

/// Debian's python3-jsonschema checks what the program writes.
#[test]
fn outputs_are_as_the_schemas_say() {
    let scene = Scene::new(BY_NAME);
    let list = list(&scene, &["a", "panic1", "crash1"]);
    let results = scene.path("r.jsonl");
    let files = [&results, &scene.path("r.json")].map(|p| p.to_string_lossy().into_owned());
    let args = ["--expect", "login:", "--configs-from", &list, "--results", &files[0]];
    assert_eq!(code(&scene.run(&[&args[..], &["--json", &files[1]]].concat())), 3);
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas");
    let check = "import json, sys, jsonschema\n\
         schema = json.load(open(sys.argv[1]))\n\
         jsonschema.Draft202012Validator.check_schema(schema)\n\
         lines = open(sys.argv[2]).read()\n\
         values = lines.splitlines() if sys.argv[2].endswith('l') else [lines]\n\
         for value in values: jsonschema.validate(json.loads(value), schema)\n\
         print(len(values))";
    for (schema, file, count) in [("result", &files[0], "3"), ("run", &files[1], "1")] {
        let schema = schemas.join(format!("{schema}.schema.json")).to_string_lossy().into_owned();
        let printed = run_text("/usr/bin/python3", &["-c", check, &schema, file]);
        assert_eq!(printed.trim(), count);
    }
}

/// A guest that lets root in and does as it is told, for checks over the console. `$state` is what
/// systemd says; `$user` and `$password` are what was typed.
const SHELL: &str = "state=running; [ ! -e $home/state ] || state=$(cat $home/state)\n\
     echo 'Linux version 6'; printf 'login: '; read -r user; printf 'Password: '; read -r password\n\
     echo; echo 'Welcome'; exec 3<>\"$disk\"\n\
     while printf '# ' && read -r line; do echo \"$line\"\n\
     case $line in a=*) eval \"$line\";;\n\
     'sh /etc/synthdisk/checks/facts '*) set -- $line\n\
       for fact in 'init systemd' \"state $state\" 'failed bad.service' 'card ens3' 'route ens3' \
         'address ens3 10.0.2.15/24' 'swap 1 1' 'root rw' \"clock $(date +%s)\" end; do\n\
       echo \"[ 1.0] a line of the kernel\"; echo \"$3$4 $fact\"; done;;\n\
     /etc/synthdisk/checks/1-*) echo from the script; false; b=3; eval \"${line#*'b=$?;'}\";;\n\
     *poweroff*) echo \"$user\" >$home/user; exit 0;; esac; done";

#[test]
fn checks_go_over_the_console() {
    let scene = Scene::new(SHELL);
    // A root filesystem in which root has a password.
    let tree = scene.path("tree/etc");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("shadow"), "root:*:19000:0:99999:7:::\n").unwrap();
    fs::write(tree.join("fstab"), "").unwrap();
    let image = scene.path("web1.img").to_string_lossy().into_owned();
    let tree = scene.path("tree").to_string_lossy().into_owned();
    crate::common::process::run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", &tree, &image]);
    let json = scene.path("r.json");
    let written = json.to_string_lossy();
    let args = ["--check", "running", "--json", &written, "--timeout", "60"];
    let result = scene.run_image(&args);
    assert_eq!(code(&result), 0, "{}", text(&result.stderr));
    assert_eq!(fs::read_to_string(scene.path("user")).unwrap(), "root\n");
    let parsed: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let checks = parsed["guests"][0]["checks"].as_array().unwrap();
    let names: Vec<_> = checks.iter().map(|c| c["name"].as_str().unwrap()).collect();
    let expected = ["console", "system", "address", "route", "swap", "root", "clock"];
    assert_eq!(names, [&expected[..], &["poweroff", "filesystems"]].concat());
    assert!(checks.iter().all(|c| c["outcome"] == "ok"), "{checks:?}");
    scene.assert_clean();

    fs::write(scene.path("state"), "degraded").unwrap();
    let script = scene.path("mine.sh");
    fs::write(&script, "#!/bin/sh\nfalse\n").unwrap();
    let script = script.to_string_lossy();
    let result = scene.run_image(&[&args[..], &["--check-script", &script]].concat());
    let stderr = text(&result.stderr);
    assert_eq!(code(&result), 1, "{stderr}");
    for part in ["systemd says 'degraded'; failed: bad.service", "1-mine.sh: exit code 3"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    scene.assert_clean();

    for (more, part) in [
        (&["--overlay", "o.qcow2"][..], "--overlay"),
        (&["--read-only"], "--read-only"),
        (&["--graphic"], "cannot be used with"),
        (&["--root-password-hash", "$6$abcdefgh$12345678901234567890"], "--root-password-hash"),
    ] {
        let result = scene.run_image(&[&["--check", "running"], more].concat());
        assert_ne!(code(&result), 0);
        assert!(text(&result.stderr).contains(part), "{}", text(&result.stderr));
    }
}
