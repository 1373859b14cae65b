//! Health: what was lost, and what needs explaining.

/// The meaning of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthKind {
    /// Something is missing from the figures.
    Loss,
    /// A free of a block that is unknown by nature.
    Unmatched,
    /// A block whose stack lacks its outer frames; its figures are whole.
    CutStack,
}

/// One counter of what was lost, or needs explaining.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCounter {
    /// Its name in reports.
    pub name: &'static str,
    /// How often it happened.
    pub count: u64,
    /// Its meaning.
    pub kind: HealthKind,
}
