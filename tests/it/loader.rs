mod qemu;
mod source;
