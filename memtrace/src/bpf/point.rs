//! Places for probes.

/// In which processes probes fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In each target alone.
    Targets,
    /// In every process that has the image mapped: for targets that begin by themselves, which must be hooked
    /// before their first instruction. The kernel side lets the others go at once.
    EveryProcess,
}

/// A place in a file for a probe, with what its program is told there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Bytes into the file.
    pub file_offset: u64,
    /// The cookie that the program reads.
    pub cookie: u64,
}
