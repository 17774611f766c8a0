mod delta;
mod formats;
mod live;
mod loader;
mod raw;
mod reflink;
mod snapshot;
mod target;
