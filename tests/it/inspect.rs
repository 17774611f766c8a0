mod domus;
mod report;
