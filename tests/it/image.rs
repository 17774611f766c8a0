mod convert;
mod oracle;
mod qcow2;
mod rule;
mod vhd;
mod vhdx;
mod xva;
