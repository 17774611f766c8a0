mod attempts;
mod mount;
mod tools;
