mod cli;
mod fleet;
mod libvirt;
mod nbd;
mod scene;
mod verdicts;
