//! A site's blocks at its program's end.

use serde::{Deserialize, Serialize};

use crate::model::survival::Amount;

/// The blocks that a site holds at exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeftBlocks {
    /// Its live blocks.
    pub(crate) live: Amount,
    /// The blocks that cannot be reached.
    pub(crate) unreachable: Amount,
}

impl LeftBlocks {
    /// Both together.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self { live: self.live.plus(other.live), unreachable: self.unreachable.plus(other.unreachable) }
    }
}
