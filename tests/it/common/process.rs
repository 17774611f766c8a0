//! Running host commands, with all of their output when they fail.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The binary under test.
pub const SYNTHDISK: &str = env!("CARGO_BIN_EXE_synthdisk");

/// The root of the source tree.
pub fn source_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A script of `scripts/`.
pub fn script(name: &str) -> PathBuf {
    source_dir().join("scripts").join(name)
}

/// True if this process is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A [`Command`] whose `PATH` has the `sbin` directories, which a plain user's may lack.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
    command.stdin(Stdio::null());
    command
}

/// True if `program` can be found on the path that [`command`] uses. Where `CI=true`, a missing
/// program fails the test that asks: `scripts/setup --test` installs all of them.
pub fn have(program: &str) -> bool {
    let status = command("sh").args(["-c", "command -v -- \"$0\" >/dev/null", program]).status();
    let found = status.is_ok_and(|s| s.success());
    if !found && in_ci() {
        panic!("{program} is not installed; scripts/setup --test should have installed it");
    }
    found
}

/// Says on stderr that the rest of this test is skipped. Where `CI=true` a skipped test is a failure.
pub fn skip(why: &str) {
    assert!(!in_ci(), "a test is skipped where CI=true: {why}");
    eprintln!("skipped: {why}");
}

fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|v| v == "true")
}

/// Runs a command to its end, successful or not. Panics only if it cannot be started.
pub fn output(program: impl AsRef<OsStr>, args: &[impl AsRef<OsStr>]) -> Output {
    let program = program.as_ref();
    command(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}", Path::new(program).display()))
}

/// Runs a command that must succeed. Panics with its stdout and stderr otherwise.
pub fn run(program: impl AsRef<OsStr>, args: &[impl AsRef<OsStr>]) -> Output {
    let result = output(program.as_ref(), args);
    assert!(result.status.success(), "{}", describe(program.as_ref(), args, &result));
    result
}

/// Like [`run`], but gives what the command wrote to stdout, as text without its last newline.
pub fn run_text(program: impl AsRef<OsStr>, args: &[impl AsRef<OsStr>]) -> String {
    text(&run(program, args).stdout).trim_end().to_string()
}

/// Copies the binary under test to where other users can start it.
pub fn copy_program(to: &Path) {
    install(Path::new(SYNTHDISK), to);
}

/// Writes a script that can be started.
pub fn write_script(path: &Path, script: &str) {
    let text = path.with_extension("text");
    std::fs::write(&text, script).expect("write in a directory of our own");
    install(&text, path);
    std::fs::remove_file(&text).expect("remove a file of our own");
}

/// Another process writes the program: a file that this one has open for writing is inherited by the
/// children that other tests are starting just then, and cannot be started meanwhile (`ETXTBSY`).
fn install(program: &Path, to: &Path) {
    run("install", &["-m755".as_ref(), "--".as_ref(), program.as_os_str(), to.as_os_str()]);
}

/// Runs `synthdisk ARGS`, which must succeed.
pub fn synthdisk(args: &[impl AsRef<OsStr>]) -> Output {
    run(SYNTHDISK, args)
}

/// Runs `synthdisk ARGS`, which must fail with exit code `code` and with one sentence on stderr.
/// Gives that sentence. A panic message, a second line or output on stdout is a failure.
pub fn expect_failure(args: &[impl AsRef<OsStr>], code: i32) -> String {
    let result = output(SYNTHDISK, args);
    let all = describe(OsStr::new("synthdisk"), args, &result);
    assert_eq!(result.status.code(), Some(code), "exit code; {all}");
    let sentence = text(&result.stderr).trim_end().to_string();
    assert!(!sentence.is_empty(), "nothing on stderr; {all}");
    assert!(!sentence.contains("panicked at"), "a panic; {all}");
    // Usage errors are clap's and come with its usage lines.
    if code != 2 {
        assert_eq!(sentence.lines().count(), 1, "more than one line on stderr; {all}");
        assert!(result.stdout.is_empty(), "something on stdout; {all}");
    }
    sentence
}

/// Bytes as text, whatever they are.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn describe(program: &OsStr, args: &[impl AsRef<OsStr>], result: &Output) -> String {
    let mut line = Path::new(program).display().to_string();
    for arg in args {
        line.push(' ');
        line.push_str(&arg.as_ref().to_string_lossy());
    }
    format!(
        "`{line}` gave {}\n--- stdout\n{}\n--- stderr\n{}",
        result.status,
        text(&result.stdout),
        text(&result.stderr)
    )
}
