mod cloud_init;
mod identity;
mod refusals;
