//! Monitoring: the memory of many processes for nearly nothing, thresholds, and what is done once one is reached.

pub mod host;
pub mod threshold;
