mod examine;
mod hostile_ext4;
mod initrd;
mod md;
mod plan_initrd;
mod probe;
mod pygrub;
mod xfs;
