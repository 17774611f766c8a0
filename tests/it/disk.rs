mod model;
mod snapshot;
