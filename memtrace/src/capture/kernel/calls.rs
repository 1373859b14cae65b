//! Calls under way that may return on another stack, or in another thread.

use aya::maps::HashMap as BpfHashMap;
use memtrace_common::{block::BlockKey, call::PendingCall, process::ProcessSlot};

use super::{Kernel, KernelError};

impl Kernel {
    /// Forgets the calls of programs that are over: nobody returns from them any more.
    pub(super) fn forget_calls(&mut self, slots: &[ProcessSlot]) -> Result<(), KernelError> {
        let mut calls: BpfHashMap<_, BlockKey, PendingCall> = self.map_mut("CALLS")?;
        let keys: Vec<BlockKey> = calls.keys().filter_map(Result::ok).collect();
        for key in keys.iter().filter(|key| slots.contains(&key.process())) {
            // An entry that is gone already need not be removed.
            _ = calls.remove(key);
        }
        Ok(())
    }
}
