mod oracle;
mod qcow2;
mod rule;
mod vhd;
