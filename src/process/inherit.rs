//! Passing an open file to a child process.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

/// An open file that child processes inherit. They open it through [`Inherited::path`], which
/// refers to the file itself, so it cannot be replaced by another file.
#[derive(Debug)]
pub struct Inherited(OwnedFd);

impl Inherited {
    /// The same open file description as `file`, with a descriptor that survives exec.
    ///
    /// # Errors
    /// EMFILE when the process has too many open files.
    pub fn new(file: &impl AsFd) -> io::Result<Self> {
        // Unlike `try_clone`, dup(2) leaves out FD_CLOEXEC.
        Ok(Self(nix::unistd::dup(file)?))
    }

    /// A path that opens the file, in this process and in children started while this value exists.
    /// See proc_pid_fd(5).
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    /// The number that the descriptor has in this process and in its children.
    pub fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// A [`File`] of the same open file description.
    ///
    /// # Errors
    /// As [`Inherited::new`].
    pub fn try_clone_file(&self) -> io::Result<File> {
        Ok(self.0.try_clone()?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::Command;

    #[test]
    fn a_child_reads_the_file_whatever_its_name_shows() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("file");
        let mut file = File::create_new(&name).unwrap();
        file.write_all(b"ours").unwrap();
        let inherited = Inherited::new(&file).unwrap();
        std::fs::rename(&name, dir.path().join("moved")).unwrap();
        std::fs::write(&name, b"theirs").unwrap();
        let output = Command::new("cat").arg(inherited.path()).output().unwrap();
        assert_eq!(output.stdout, b"ours");
    }
}
