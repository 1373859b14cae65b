//! The words for people: what reports say of figures, findings and reasons, a file a topic.
//!
//! In: data of the model. Out: text, without a full stop. Formats and the command line decide where it stands.

pub mod figures;
pub mod finding;
pub mod frame;
pub mod headroom;
pub mod heap;
pub mod heap_types;
pub mod holders;
pub mod not_seen;
pub mod outcome;
pub mod registers;
pub mod tier;
pub mod truncation;
pub mod unchecked;
pub mod units;
pub mod verdict;
