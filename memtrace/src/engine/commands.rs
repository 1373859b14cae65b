//! Commands to the engine.

use crate::capture::selection::Selection;

/// A command to the engine.
pub(super) enum Command {
    /// A run over these.
    Trace(Selection),
    /// The end of the run.
    Stop,
}
