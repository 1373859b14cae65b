//! Stacks that have outlived their process's addresses.

use serde::{Deserialize, Serialize};

use crate::model::{code_place::CodePlace, frame::Reason, truncation::Truncation};

/// A stack that was made independent of its process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlacedStack {
    /// From the allocation's caller outwards.
    pub(crate) places: Vec<CodePlace>,
    /// Why outer frames are missing; nothing where none is.
    pub(crate) truncation: Option<Truncation>,
    /// Whether a frame of it rests on rows that were inferred from code, or on a frame pointer.
    pub(crate) is_inferred: bool,
    /// Whether the mappings that it was looked up in may have been too old.
    #[serde(skip)]
    pub(crate) is_tentative: bool,
    /// It has no frame where several images have been, as of so many finds of such addresses ([`Reading::contests`]).
    ///
    /// [`Reading::contests`]: super::reading::Reading::contests
    #[serde(skip)]
    pub(crate) settled: u64,
}

impl PlacedStack {
    /// Whether the allocation's caller itself lies in no mapping.
    pub(crate) fn starts_nowhere(&self) -> bool {
        matches!(self.places.first(), Some(CodePlace::Address(_, Reason::Unmapped)))
    }
}
