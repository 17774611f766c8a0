mod delta;
mod formats;
mod live;
mod raw;
mod reflink;
mod snapshot;
mod target;
