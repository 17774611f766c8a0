//! synthdisk presents untouched Xen partition images as one whole virtual disk.
//!
//! Each module is a room with one subject. A room calls only those below it; `docs/ARCHITECTURE.md`
//! lists them in that order, with what each owns.

pub mod adapt;
pub mod appliance;
pub mod bootmenu;
pub mod bytes;
pub mod cli;
pub mod crc;
pub mod daemon;
pub mod device_name;
pub mod disk;
pub mod edit;
pub mod error;
pub mod export;
pub mod finalize;
pub mod fs;
pub mod fuse;
pub mod guard;
pub mod guest;
pub mod identity;
pub mod image;
pub mod initrd;
pub mod inspect;
pub mod layout;
pub mod libvirt;
pub mod loader;
pub mod lvm;
pub mod nbd;
pub mod page;
pub mod plan;
pub mod private_file;
pub mod process;
pub mod qemu;
pub mod remote;
pub mod run;
pub mod sandbox;
pub mod settle;
pub mod text;
pub mod xen;

pub use error::{Error, ErrorKind, Result};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    /// All Rust files below `dir`.
    fn sources(dir: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        let mut found: Vec<_> =
            files.into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs")).collect();
        found.extend(dirs.iter().flat_map(|dir| sources(dir)));
        found
    }

    #[test]
    fn the_list_of_files_with_unsafe_code_is_true() {
        let home = Path::new(env!("CARGO_MANIFEST_DIR"));
        let attributes = ["expect", "allow"].map(|level| format!("{level}(unsafe_code"));
        let has_some = |path: &PathBuf| {
            let text = std::fs::read_to_string(path).unwrap();
            attributes.iter().any(|attribute| text.contains(attribute))
        };
        let files: BTreeSet<String> = sources(&home.join("src"))
            .into_iter()
            .filter(has_some)
            .map(|path| path.strip_prefix(home).unwrap().to_str().unwrap().to_owned())
            .collect();
        let doc = std::fs::read_to_string(home.join("docs/ARCHITECTURE.md")).unwrap();
        let list = doc.split_once("`unsafe_code` is denied").expect("the list's first words").1;
        let items = list.lines().filter_map(|line| line.strip_prefix("- `src/"));
        let listed = items.map(|item| format!("src/{}", item.split('`').next().unwrap())).collect();
        assert_eq!(files, listed, "the files, and the list in docs/ARCHITECTURE.md");
    }

    #[test]
    fn messages_that_troubleshooting_quotes_exist() {
        let home = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut code = String::new();
        for path in sources(&home.join("src")) {
            for line in std::fs::read_to_string(path).unwrap().lines() {
                // A string that goes on in the next line ends with a backslash.
                match line.strip_suffix('\\') {
                    Some(text) => code.push_str(text.trim_start()),
                    None => code.extend([line.trim_start(), "\n"]),
                }
            }
        }
        code.push_str(&std::fs::read_to_string(home.join("src/loader/direct/loader.S")).unwrap());
        let doc = std::fs::read_to_string(home.join("docs/TROUBLESHOOTING.md")).unwrap();
        let quotes: Vec<&str> = doc.lines().filter_map(|line| line.strip_prefix("> ")).collect();
        assert!(quotes.len() > 30, "{}", quotes.len());
        for quote in quotes {
            let pieces: Vec<&str> = quote.split('…').filter(|p| p.len() > 6).collect();
            assert!(!pieces.is_empty(), "nothing to look for in: {quote}");
            for piece in pieces {
                assert!(
                    code.contains(piece),
                    "docs/TROUBLESHOOTING.md quotes a message that no code has: {quote}"
                );
            }
        }
    }
}
