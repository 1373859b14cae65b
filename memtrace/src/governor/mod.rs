//! The governor: keeps what tracing takes of the targets within a budget.
//!
//! In: the time since the start, and what a meter reads of each target. Out: decisions, which the engine carries out.
//! It is pure: it imports the model alone, reads no clock, and draws random numbers from a seed, so that a simulated meter
//! and a simulated clock are all that its tests need.

pub mod budget;
pub mod clock;
pub mod decision;
pub mod gaps;
pub mod groups;
pub mod growth_slots;
pub mod meter;
pub mod passing;
pub mod tiers;
pub mod window_schedule;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_apart;
#[cfg(test)]
mod tests_gaps;
