mod config;
mod disk;
mod domain;
