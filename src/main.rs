//! The `synthdisk` command.

fn main() {}
