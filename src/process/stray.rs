//! Files that a process inherits by accident.

use std::fs;

/// Close every file that this process has inherited except standard input, output and error:
/// programs often leak theirs to the programs that they start.
///
/// Must be called before the process opens anything, because it closes descriptors that nobody here
/// knows of.
pub fn close_inherited_files() {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // Collected first: the directory is closed by then, and its number is no longer in use.
    for number in numbers.filter(|number| *number > 2).collect::<Vec<_>>() {
        let _ = nix::unistd::close(number); // EBADF for the directory
    }
}
