mod cli;
mod libvirt;
mod nbd;
mod scene;
mod verdicts;
