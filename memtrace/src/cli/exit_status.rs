//! Exit statuses.

/// Exit status where suspects remain.
pub(super) const SUSPECTS: u8 = 3;

/// Exit status where something was to be checked and was not.
pub(super) const UNSEEN: u8 = 4;
