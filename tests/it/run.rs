mod cli;
mod libvirt;
mod scene;
mod verdicts;
