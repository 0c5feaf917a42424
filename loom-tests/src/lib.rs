//! Models of the concurrent parts; see `tests/`.
