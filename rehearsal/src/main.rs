//! `rehearsal`: the cloud in a folder.

fn main() {}
