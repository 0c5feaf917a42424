//! Pools over every space.

use democratising::SpinLock;
use democratising::arena::IndexKind;
use democratising::pool::{Pool, PoolConfig};
use democratising::space::{Mapped, MappedTables, Simulated, Space, WithIndex};
use proptest::prelude::*;

pub const MAPPED: usize = 128 << 20;

/// Any space, divided by an index of this kind.
pub fn pool<S: Space, I: IndexKind>(
    space: S,
    config: PoolConfig,
) -> Pool<WithIndex<S, I>, SpinLock, MappedTables> {
    Pool::new(WithIndex::new(space), MappedTables, config).unwrap()
}

pub fn mapped<I: IndexKind>(config: PoolConfig) -> Pool<WithIndex<Mapped, I>, SpinLock, MappedTables> {
    pool(Mapped::reserve(MAPPED).unwrap(), config)
}

pub fn simulated<I: IndexKind>(config: PoolConfig) -> Pool<WithIndex<Simulated, I>, SpinLock, MappedTables> {
    pool(Simulated::device(MAPPED as u64, 2 << 20), config)
}

pub fn config() -> impl Strategy<Value = PoolConfig> {
    let slack = prop_oneof![Just(0u32), Just(30), Just(1000)];
    let growth = prop_oneof![Just(1000u32), Just(1500), Just(2000)];
    let retain = prop_oneof![Just(u64::MAX), Just(0), Just(8 << 20)];
    (slack, growth, retain).prop_map(|(slack, growth, retain)| {
        PoolConfig::DEFAULT.slack_permille(slack).growth_permille(growth).retain_bytes(retain)
    })
}
