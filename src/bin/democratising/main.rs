//! The `democratising` program.

fn main() {}
