mod vhd;
