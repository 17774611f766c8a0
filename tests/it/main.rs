//! All integration tests, in one program: a file per subject, a folder per room.

mod adapt;
mod appliance;
mod boot;
mod cli;
mod clone;
mod common;
mod config;
mod disk;
mod finalize;
mod fuse;
mod guest;
mod harness_selftest;
mod image;
mod inspect;
mod loader;
mod lvm;
mod nbd;
mod remote;
mod rooms;
mod run;
mod sandbox;
mod semantics;
mod settle;
mod xen;
