//! `FixedHeap`: one randomized script over claimed memory of every size and start, and what it promises beside.

#[path = "../common/again.rs"]
mod again;
mod block;
mod hostile;
mod moves;
mod promises;
mod script;
mod slabs;
#[path = "../common/start.rs"]
mod start;
