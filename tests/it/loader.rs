mod grub;
mod qemu;
mod source;
