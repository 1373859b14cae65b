//! Calls under way that may return on another stack, or in another thread.

use memtrace_common::{
    ids::{BlockKey, ProcessSlot},
    steps::call::PendingCall,
};

use super::named_map::KeyedMap;

/// The table of such calls.
pub(super) struct Calls(KeyedMap<BlockKey, PendingCall>);

impl Calls {
    pub(super) fn new(calls: KeyedMap<BlockKey, PendingCall>) -> Self {
        Self(calls)
    }

    /// Forgets the calls of targets that are over: nobody returns from them any more.
    pub(super) fn forget(&mut self, slots: &[ProcessSlot]) {
        for key in self.0.keys().iter().filter(|key| slots.contains(&key.process())) {
            self.0.remove(key);
        }
    }
}
