mod coherence;
mod guests;
mod mapping;
