//! An arena, shared.

#![forbid(unsafe_code)]

pub mod budget;
