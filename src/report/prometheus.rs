//! What is held, as Prometheus reads it.

#![forbid(unsafe_code)]

use super::{KindUse, MemoryUse, Resources, ScopeUse};
use crate::gc::Resource;
use crate::pool::budget::scope::Kind;
use core::fmt::Write;
use std::collections::BTreeMap;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

/// Samples of one name, by their labels. Those that look the same, of scopes of one name in one place, are one: their sum.
struct Family {
    name: &'static str,
    help: &'static str,
    samples: BTreeMap<String, u64>,
}

impl Family {
    fn new(name: &'static str, help: &'static str) -> Family {
        Family { name, help, samples: BTreeMap::new() }
    }

    fn add(&mut self, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let sum = self.samples.entry(labels.join(",")).or_default();
        *sum = sum.saturating_add(value);
    }

    fn write(&self, out: &mut String) {
        if self.samples.is_empty() {
            return;
        }
        // Writing to a string fails never.
        let _ = writeln!(out, "# HELP {} {}\n# TYPE {} gauge", self.name, self.help, self.name);
        for (labels, value) in &self.samples {
            let _ = writeln!(out, "{}{{{labels}}} {value}", self.name);
        }
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// What bytes a kind counts; `None` of what is counted one by one.
fn memory(kind: &str) -> Option<&'static str> {
    let bytes = [(Kind::HostBytes, "host"), (Kind::DeviceBytes, "device"), (Kind::MappedBytes, "mapped")];
    bytes.into_iter().find(|(known, _)| known.name() == kind).map(|(_, name)| name)
}

impl Resources {
    /// The snapshot in Prometheus' text format (version 0.0.4): gauges in bytes, or counts, by scope (`process/training/step 3`), by pool
    /// and by reclaimer.
    ///
    /// ```
    /// use democratising::{Tensor, pool::budget::scope::Scope, resources};
    ///
    /// let step = Scope::new("step");
    /// let tensor = step.run(|| Tensor::zeros(&[1000]))?;
    /// let text = resources().to_prometheus();
    /// assert!(text.contains("democratising_held_bytes{scope=\"process/step\",memory=\"host\"} 4000\n"));
    /// # drop(tensor);
    /// # Ok::<(), democratising::DemoError>(())
    /// ```
    pub fn to_prometheus(&self) -> String {
        let mut bytes = [
            Family::new("democratising_held_bytes", "Bytes that a scope holds, those within it included."),
            Family::new("democratising_held_peak_bytes", "The most bytes that a scope held at once."),
            Family::new("democratising_held_limit_bytes", "The limit of a scope's bytes, where it has one."),
        ];
        let mut counts = [
            Family::new(
                "democratising_held",
                "Files, connections and listeners that a scope holds, those within it included.",
            ),
            Family::new("democratising_held_peak", "The most that a scope held at once."),
            Family::new("democratising_held_limit", "The limit of a scope, where it has one."),
        ];
        let mut path: Vec<&str> = Vec::new();
        for ScopeUse { name, depth, held, .. } in &self.scopes {
            path.truncate(*depth);
            path.push(name);
            let scope = path.join("/");
            for KindUse { kind, used, peak, limit } in held {
                let (families, labels) = match memory(kind) {
                    Some(memory) => (&mut bytes, [("scope", &*scope), ("memory", memory)]),
                    None => (&mut counts, [("scope", &*scope), ("kind", *kind)]),
                };
                for (family, value) in families.iter_mut().zip([Some(*used), Some(*peak), *limit]) {
                    value.into_iter().for_each(|value| family.add(&labels, value));
                }
            }
        }
        let mut pools = [
            Family::new("democratising_pool_in_use_bytes", "Bytes of live blocks."),
            Family::new("democratising_pool_reserved_bytes", "Bytes that are backed by memory."),
            Family::new("democratising_pool_idle_bytes", "Bytes that are backed and hold nothing."),
            Family::new("democratising_pool_reserved_peak_bytes", "The most bytes that were backed at once."),
            Family::new("democratising_pool_limit_bytes", "The limit of a pool, where it has one."),
        ];
        for MemoryUse { name, in_use_bytes, reserved_bytes, idle_bytes, peak_reserved_bytes, limit_bytes } in
            &self.memory
        {
            let values = [
                Some(*in_use_bytes),
                Some(*reserved_bytes),
                Some(*idle_bytes),
                Some(*peak_reserved_bytes),
                *limit_bytes,
            ];
            for (family, value) in pools.iter_mut().zip(values) {
                value.into_iter().for_each(|value| family.add(&[("pool", name)], value));
            }
        }
        let mut reclaimable = [
            Family::new("democratising_reclaimable_bytes", "Bytes that a reclaimer could give back."),
            Family::new("democratising_reclaimable", "What else a reclaimer could give back."),
        ];
        for super::Reclaimable { name, resource, amount } in &self.reclaimable {
            let bytes = [
                (Resource::HostBytes, "host"),
                (Resource::DeviceBytes, "device"),
                (Resource::MappedBytes, "mapped"),
            ];
            match bytes.iter().find(|(known, _)| known.to_string() == *resource) {
                Some((_, memory)) => reclaimable[0].add(&[("reclaimer", name), ("memory", memory)], *amount),
                None => reclaimable[1].add(&[("reclaimer", name), ("kind", resource)], *amount),
            }
        }
        let mut out = String::new();
        bytes
            .iter()
            .chain(&counts)
            .chain(&pools)
            .chain(&reclaimable)
            .for_each(|family| family.write(&mut out));
        out
    }
}
