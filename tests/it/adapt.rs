mod e2fs;
mod kernel_driver;
