//! The first program of an extra initrd. It loads modules into the kernel, then executes the
//! guest's own init.
//!
//! The code is assembled from `insmod64.S` and `insmod32.S` by `scripts/assemble-loader` and
//! committed. It needs neither a shell nor module tools in the initrd.

use crate::{Error, ErrorKind, Result};

/// For 64-bit kernels.
const CODE64: &[u8] = include_bytes!("insmod64.bin");
/// For 32-bit kernels.
const CODE32: &[u8] = include_bytes!("insmod32.bin");

/// The word size of a kernel, derived from its modules.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WordSize {
    /// i386.
    B32,
    /// x86-64.
    B64,
}

impl WordSize {
    /// The word size of the ELF file `module` (elf(5): `e_ident` and `e_machine`).
    ///
    /// # Errors
    /// `Unsupported` for a file that is not a module of an x86 kernel.
    pub fn of_module(module: &[u8]) -> Result<Self> {
        let machine = module.get(18..20).map(|m| u16::from_le_bytes([m[0], m[1]]));
        match (module.get(..5), machine) {
            (Some(b"\x7fELF\x01"), Some(3)) => Ok(Self::B32),
            (Some(b"\x7fELF\x02"), Some(62)) => Ok(Self::B64),
            _ => Err(Error::new(ErrorKind::Unsupported, "no kernel module for an x86 PC")),
        }
    }
}

/// The program that loads `modules`, given as absolute paths, in this order and then starts `init`.
///
/// # Errors
/// `Invalid` for a path that is empty or contains a NUL.
pub fn program(bits: WordSize, init: &str, modules: &[String]) -> Result<Vec<u8>> {
    let (code, len_at, wide) = match bits {
        // p_filesz, then p_memsz, both in the program header, which follows the file header.
        WordSize::B32 => (CODE32, 52 + 16, 4),
        WordSize::B64 => (CODE64, 64 + 32, 8),
    };
    let mut out = code.to_vec();
    for path in std::iter::once(init).chain(modules.iter().map(String::as_str)) {
        if path.is_empty() || path.contains('\0') {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("invalid path {path:?} of a kernel module or init"),
            ));
        }
        out.extend(path.as_bytes());
        out.push(0);
    }
    out.push(0);
    let len = (out.len() as u64).to_le_bytes();
    for at in [len_at, len_at + wide] {
        out[at..at + wide].copy_from_slice(&len[..wide]);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    use std::process::Command;

    /// The program is a Linux executable, so it also runs here; it just cannot load a module.
    #[test]
    fn it_reports_what_it_cannot_load_and_becomes_init() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("no-module");
        std::fs::write(&file, "no ELF at all").unwrap();
        let no_module = file.display().to_string();
        let modules = ["/nowhere/a.ko".to_owned(), no_module.clone()];
        for bits in [WordSize::B64, WordSize::B32] {
            let path = dir.path().join(format!("{bits:?}"));
            let start = |init: &str| {
                let program = program(bits, init, &modules).unwrap();
                let mut file = std::fs::OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o755)
                    .open(&path)
                    .unwrap();
                file.write_all(&program).unwrap();
                drop(file);
                let mut command = Command::new(&path);
                command.args(["one", "two words"]).env_clear().env("A", "b");
                command.output()
            };
            let echo = match start("/bin/sh") {
                Ok(output) => output,
                // A host kernel without 32-bit system calls.
                Err(e) if bits == WordSize::B32 && e.raw_os_error() == Some(libc::ENOEXEC) => {
                    continue;
                }
                Err(e) => panic!("{bits:?}: {e}"),
            };
            let said = String::from_utf8_lossy(&echo.stderr).into_owned();
            let lines: Vec<_> = said.lines().collect();
            let cannot = "synthdisk: cannot load the kernel module";
            assert_eq!(lines[0], format!("{cannot} /nowhere/a.ko: error 2"), "{said}");
            // EPERM for an ordinary user, ENOEXEC for root, ENOSYS without module support.
            let starts = format!("{cannot} {no_module}: error ");
            let error = lines[1].strip_prefix(&starts).unwrap_or_else(|| panic!("{said}"));
            assert!(["1", "8", "38"].contains(&error), "{said}");
            // The shell received our arguments: it tries to open a script of that name.
            assert!(lines[2].starts_with("/bin/sh") && lines[2].contains("one"), "{said}");

            let output = start("/nowhere/init").unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.ends_with("synthdisk: cannot start /nowhere/init: error 2\n"), "{said}");
            assert_eq!(output.status.code(), Some(1));
        }
    }

    #[test]
    fn paths_and_modules_that_cannot_be() {
        assert!(program(WordSize::B64, "", &[]).is_err());
        assert!(program(WordSize::B64, "/init", &["a\0b".into()]).is_err());
        assert!(WordSize::of_module(b"").is_err());
        assert!(WordSize::of_module(b"\x7fELF\x02\x01\x01").is_err());
        assert_eq!(WordSize::of_module(CODE64).unwrap(), WordSize::B64);
        assert_eq!(WordSize::of_module(CODE32).unwrap(), WordSize::B32);
    }
}
