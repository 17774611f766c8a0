//! The `synthdisk` command.

fn main() -> std::process::ExitCode {
    synthdisk::cli::main()
}
