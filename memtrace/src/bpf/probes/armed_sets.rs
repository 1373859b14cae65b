//! The probes that are in place, or are to be: of processes that have their own, and of all others.

use std::{collections::HashMap, num::NonZeroU32};

use crate::bpf::probe_kind::ProbeSet;

/// Which probes are in place where.
#[derive(Default)]
pub(super) struct ArmedSets {
    own: HashMap<NonZeroU32, ProbeSet>,
    others: ProbeSet,
}

impl ArmedSets {
    /// From now on these are in place in one process alone, or in all others.
    pub(super) fn set(&mut self, pid: Option<NonZeroU32>, armed: ProbeSet) {
        match pid {
            Some(pid) => _ = self.own.insert(pid, armed),
            None => self.others = armed,
        }
    }

    /// Those of an attachment to this process, or to every process: there, no process lacks any that it is to have.
    pub(super) fn of(&self, pid: Option<NonZeroU32>) -> ProbeSet {
        match pid {
            Some(pid) => self.own.get(&pid).copied().unwrap_or(self.others),
            None => self.own.values().copied().fold(self.others, ProbeSet::max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_in_every_process_are_in_place_as_long_as_any_process_needs_them() {
        let [a, b] = [7, 8].map(NonZeroU32::new);
        let mut armed = ArmedSets::default();
        armed.set(None, ProbeSet::Neither);
        armed.set(a, ProbeSet::Frees);
        assert_eq!((armed.of(a), armed.of(b), armed.of(None)), (ProbeSet::Frees, ProbeSet::Neither, ProbeSet::Frees));
    }
}
