mod hostile;
mod model;
mod snapshot;
