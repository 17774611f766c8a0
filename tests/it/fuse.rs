mod coherence;
mod ends;
mod errors;
mod files;
mod images;
mod layout;
mod overlay;
mod snapshot;
