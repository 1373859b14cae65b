//! Stacks, as they were walked, by their names.

use std::collections::HashSet;

use memtrace_common::{ids::StackId, wire::stack::StackRecord};

use super::{error::BpfError, named_map::KeyedMap};

/// The table of stacks.
pub(super) struct Stacks(KeyedMap<StackId, StackRecord>);

impl Stacks {
    pub(super) fn new(stacks: KeyedMap<StackId, StackRecord>) -> Self {
        Self(stacks)
    }

    /// A stack; `None` where it is not known.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn get(&self, id: StackId) -> Result<Option<StackRecord>, BpfError> {
        self.0.get(&id)
    }

    /// Removes stacks that no site needs. A thread may have opened a site with one of them meanwhile: it opens the site first
    /// and then looks for the stack, so that one of the two sides puts it back. `needed` tells which stacks sites have by then.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub(super) fn remove(
        &mut self,
        unneeded: &HashSet<StackId>,
        needed: impl FnOnce() -> Result<HashSet<StackId>, BpfError>,
    ) -> Result<(), BpfError> {
        let mut removed = Vec::new();
        for id in unneeded {
            removed.extend(self.0.get(id)?.map(|record| (*id, record)));
            self.0.remove(id);
        }
        let needed = needed()?;
        for (id, record) in removed.into_iter().filter(|(id, _)| needed.contains(id)) {
            // It may be there again by now.
            self.0.insert_new(id, record);
        }
        Ok(())
    }
}
