mod cmdline;
mod generate;
mod hostile_mount;
mod logs;
