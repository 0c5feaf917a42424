//! The only file that names atomics, cells and locks: `core` in every build, `loom` under `--cfg democratising_loom`.
