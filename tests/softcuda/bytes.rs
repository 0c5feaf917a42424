//! Bytes by the megabyte, written and looked at by copies and comparisons of slices: loops over them take seconds in a debug build.

#![allow(dead_code, reason = "each test file uses its part")]

/// `n` bytes that repeat after 64,256, and not before.
pub fn pattern(n: usize, seed: usize) -> Vec<u8> {
    let period = 256 * 251;
    let mut bytes: Vec<u8> =
        (0..n.min(period)).map(|i| (i.wrapping_mul(31) + seed * 7 + i / 251) as u8).collect();
    while bytes.len() < n {
        bytes.extend_from_within(..period.min(n - bytes.len()));
    }
    bytes
}

/// Whether all of them are that one.
pub fn all_are(bytes: &[u8], byte: u8) -> bool {
    bytes.first().is_none_or(|first| *first == byte && bytes[1..] == bytes[..bytes.len() - 1])
}
