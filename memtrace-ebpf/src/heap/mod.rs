//! The heaps of programs: what happens at the entries and returns of hooked functions.

mod accounting;
pub(crate) mod blocks;
pub(crate) mod calls;
pub(crate) mod entry;
pub(crate) mod free;
mod free_site;
pub(crate) mod nesting;
mod probe;
pub(crate) mod returns;
mod sample;
mod sides;
