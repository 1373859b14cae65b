//! Pure steps that run on both sides: in the kernel, and in host tests.

pub mod block_table;
pub mod call;
pub mod cfi;
pub mod frame;
pub mod frame_pointer;
pub mod handed_on;
pub mod recent_rows;
pub mod sampling;
pub mod stack_cache;
