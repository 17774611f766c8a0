mod access;
mod coherence;
mod ends;
mod errors;
mod files;
mod layout;
mod overlay;
mod snapshot;
