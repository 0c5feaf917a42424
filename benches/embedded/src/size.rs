//! Bytes of code in firmware for a Cortex-M4F.

/// Prints the table.
pub fn table() {}
