//! Counts of what was lost, as reports have them.

use memtrace_common::wire::counters::{Counter, CounterKind};

use crate::{
    model::health::{HealthCounter, HealthKind},
    profile::reading::Counters,
};

/// The counters that `is_wanted` chooses, as reports have them.
pub(crate) fn health(counters: &Counters, is_wanted: impl Fn(Counter) -> bool) -> Vec<HealthCounter> {
    let wanted = Counter::ALL.iter().zip(*counters).filter(|(counter, _)| is_wanted(**counter));
    wanted.map(|(counter, count)| HealthCounter { name: counter.name(), count, kind: kind(*counter) }).collect()
}

fn kind(counter: Counter) -> HealthKind {
    match counter.kind() {
        CounterKind::Loss => HealthKind::Loss,
        CounterKind::Unmatched => HealthKind::Unmatched,
        CounterKind::CutStack => HealthKind::CutStack,
    }
}
