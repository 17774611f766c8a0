mod e2fs;
mod full;
mod kernel_driver;
