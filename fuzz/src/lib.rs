//! Hostile input for everything in memtrace that reads data of others.
//!
//! A target is a plain function of bytes, in a file of its own. Two feed it: libFuzzer (`src/main.rs`, built by `cargo xtask
//! fuzz`), and the tests, with random bytes and with seeds that were changed a little (`tests/bodies.rs`). A target fails by a
//! panic, a hang or by taking memory without bound.

pub mod input;
pub mod seeds;
pub mod targets;

/// The longest input that is made, in bytes: enough for a small ELF file.
pub const MAX_INPUT_BYTES: usize = 64 << 10;

/// One reader of untrusted data.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// That of its file in `src/targets`.
    pub name: &'static str,
    /// Feeds it one input.
    pub run: fn(&[u8]),
    /// Inputs to start from, made of what this machine has.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// The target of a name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    targets::ALL.iter().find(|target| target.name == name)
}
