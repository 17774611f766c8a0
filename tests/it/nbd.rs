//! `synthdisk serve --nbd`: disks without FUSE.

mod bytes;
mod client;
mod ends;
mod handshake;
mod hostile;
mod interop;
mod tls;
