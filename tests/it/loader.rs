mod grub;
mod qemu;
mod source;
mod uefi;
