mod examine;
mod initrd;
mod plan_initrd;
mod probe;
mod pygrub;
mod xfs;
