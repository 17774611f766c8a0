mod cli;
mod fleet;
mod libvirt;
mod nbd;
mod page;
mod scene;
mod verdicts;
