//! Weights: the figure by which folded stacks and flame graphs are drawn.

use crate::model::report::Site;

/// The figure by which folded stacks and flame graphs weigh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Live bytes.
    InuseSpace,
    /// Live objects.
    InuseObjects,
    /// Bytes ever allocated.
    AllocSpace,
    /// Objects ever allocated.
    AllocObjects,
    /// Growth of live bytes in bytes a second; shrinking sites weigh nothing.
    Growth,
}

impl Weight {
    /// The weight of `site`.
    #[must_use]
    pub fn of(self, site: &Site) -> u64 {
        match self {
            Self::InuseSpace => site.totals.live_bytes(),
            Self::InuseObjects => site.totals.live_objects(),
            Self::AllocSpace => site.totals.alloc_bytes,
            Self::AllocObjects => site.totals.alloc_objects,
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a clamped, rounded slope")]
            Self::Growth => site.growth_bytes_per_s.max(0.0).round() as u64,
        }
    }
}
