//! `synthdisk generate`: manual pages and shell completions, derived from the options' descriptions.

use crate::{Error, Result};
use clap::{Args, Command, Subcommand};
use clap_complete::Shell;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write one manual page per command, and one for mount(8), into a directory
    Man {
        /// Directory, created if it does not exist
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// Generate what was asked for, for `program`.
pub(super) fn run(args: GenerateArgs, mut program: Command) -> Result<()> {
    match args.what {
        What::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut program, "synthdisk", &mut script);
            std::io::stdout()
                .write_all(&script)
                .map_err(|e| Error::io("cannot print the completion script", e))
        }
        What::Man { dir } => {
            std::fs::create_dir_all(&dir).map_err(|e| {
                Error::io(format!("cannot create the directory {}", dir.display()), e)
            })?;
            pages(program).iter().try_for_each(|(name, page)| write(&dir.join(name), page))
        }
    }
}

fn write(path: &Path, page: &[u8]) -> Result<()> {
    std::fs::write(path, page).map_err(|e| Error::io(format!("cannot write {}", path.display()), e))
}

/// All manual pages: file name and roff source.
fn pages(mut root: Command) -> Vec<(String, Vec<u8>)> {
    root.build();
    let mut pages = vec![("synthdisk.1".to_owned(), page(&root))];
    for command in root.get_subcommands().filter(|c| is_documented(c)) {
        let name = format!("synthdisk-{}", command.get_name());
        pages.push((format!("{name}.1"), page(command)));
        for nested in command.get_subcommands().filter(|c| is_documented(c)) {
            let name = format!("{name}-{}", nested.get_name());
            pages.push((format!("{name}.1"), page(nested)));
        }
    }
    // `man mount.fuse.synthdisk`, the page for `mount -t fuse.synthdisk`, shows that of `mount`.
    pages.push(("mount.fuse.synthdisk.8".into(), b".so man1/synthdisk-mount.1\n".to_vec()));
    pages
}

fn is_documented(command: &Command) -> bool {
    !command.is_hide_set() && command.get_name() != "help"
}

fn page(command: &Command) -> Vec<u8> {
    let mut page = Vec::new();
    // Building gave the command its full name, such as synthdisk-mount. Writing to a Vec cannot fail.
    let _ = clap_mangen::Man::new(command.clone()).render(&mut page);
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    #[test]
    fn every_command_has_a_page_with_every_option() {
        let pages = pages(Cli::command());
        let mut root = Cli::command();
        root.build();
        let mut seen = 0;
        for command in root.get_subcommands().filter(|c| is_documented(c)) {
            let name = format!("synthdisk-{}.1", command.get_name());
            let (_, page) = pages.iter().find(|(n, _)| *n == name).expect(&name);
            let page = String::from_utf8(page.clone()).unwrap().replace("\\-", "-");
            for arg in command.get_arguments().filter(|a| !a.is_hide_set()) {
                let Some(long) = arg.get_long().filter(|long| *long != "help") else { continue };
                assert!(page.contains(&format!("--{long}")), "{name} lacks --{long}");
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty(), "{name}: --{long} has no help text");
                seen += 1;
            }
        }
        assert!(seen > 100, "{seen} options");
        assert!(pages.iter().any(|(n, _)| n == "synthdisk-generate-man.1"));
        assert!(!pages.iter().any(|(n, _)| n.contains("internal")));
    }

    #[test]
    fn every_shell_completes_commands_and_options() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "synthdisk", &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in ["libvirt-xml", "overlay-dir", "guest-kernel"] {
                assert!(script.contains(word), "{shell} lacks {word}");
            }
        }
    }
}
