//! Statistics of series and samples. Pure arithmetic.

pub mod enlargement;
pub mod estimate;
pub mod history;
pub mod rank;
pub mod teardown;
pub mod trend;
pub mod windows;
