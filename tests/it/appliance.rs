mod editor;
mod guests;
mod hostile;
mod tree;
