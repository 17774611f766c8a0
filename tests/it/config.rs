mod access;
mod adapt;
mod adapt_command;
mod boot;
mod errors;
mod layouts;
mod whole_disks;
