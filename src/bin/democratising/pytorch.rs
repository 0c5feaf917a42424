//! What PyTorch's own allocator makes of the traces this project measures with.

#![forbid(unsafe_code)]

const TABLE: &str = include_str!("pytorch.tsv");

/// PyTorch's efficiency on one trace, in percent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Reference {
    pub default: f64,
    pub expandable: f64,
}

/// The line of the trace with this name, if it is the same trace and not another one of that name.
pub fn reference(trace: &str, events: u64) -> Option<Reference> {
    lines().find(|&(name, counted, _)| name == trace && counted == events).map(|(_, _, reference)| reference)
}

fn lines() -> impl Iterator<Item = (&'static str, u64, Reference)> {
    TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut fields = line.split('\t');
        let (name, events) = (fields.next()?, fields.next()?.parse().ok()?);
        let (default, expandable) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((name, events, Reference { default, expandable }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_read() {
        assert_eq!(lines().count(), TABLE.lines().filter(|line| !line.starts_with('#')).count());
        assert_eq!(lines().count(), 6);
        assert!(
            lines().all(|(_, _, r)| r.default < r.expandable && r.default > 50.0 && r.expandable < 100.0)
        );
    }

    #[test]
    fn another_trace_of_the_same_name_has_no_reference() {
        assert_eq!(reference("resnet50_train", 17_198), Some(Reference { default: 65.4, expandable: 98.7 }));
        assert_eq!(reference("resnet50_train", 17_197), None);
        assert_eq!(reference("resnet", 17_198), None);
    }
}
