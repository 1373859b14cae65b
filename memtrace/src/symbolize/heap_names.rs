//! Names of what a look at a heap has found: of types, and of variables that hold blocks.

use super::{holders::HolderNames, type_names::TypeNames};
use crate::model::heap::Heap;

/// Names types and holders, and remembers the names. The processes that read symbols are begun when they are needed first.
#[derive(Default)]
pub struct HeapNames {
    types: TypeNames,
    holders: Option<HolderNames>,
}

impl HeapNames {
    /// Names what a look at a process, which goes on, has found. Nodes of holders that get the same name become one.
    pub fn name(&mut self, pid: u32, heap: &mut Heap) {
        self.types.name(pid, &mut heap.types, heap.holders.as_mut());
        if let Some(holders) = heap.holders.take() {
            let names = self.holders.get_or_insert_with(HolderNames::start);
            heap.holders = Some(names.name(pid, holders));
        }
    }
}
