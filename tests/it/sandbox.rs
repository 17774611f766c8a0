mod attempts;
mod mount;
