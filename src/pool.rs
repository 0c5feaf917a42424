//! An arena, shared.

#![forbid(unsafe_code)]

pub mod budget;
pub mod depot;
pub mod magazine;
