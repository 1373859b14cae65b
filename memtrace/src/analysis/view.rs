//! The facts that the reports on all processes of a run have in common.

use std::time::Duration;

use super::identity::Identities;
use crate::model::{category::Category, overhead::TrapCost, tier::Tier};

/// The facts that the reports on all processes of a run have in common.
pub(crate) struct View<'a> {
    /// The categories that they are of.
    pub(crate) categories: &'a [Category],
    /// The images, as they stand in the ids of sites.
    pub(crate) identities: &'a Identities<'a>,
    /// After the start.
    pub(crate) now: Duration,
    /// The cost of a probe, where that is known.
    pub(crate) trap: Option<TrapCost>,
    /// Whether what is recorded may change.
    pub(crate) is_adaptive: bool,
    /// The least exact tier of all.
    pub(crate) tier: Tier,
}
