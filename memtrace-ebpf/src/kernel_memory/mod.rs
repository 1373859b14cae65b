//! The kernel's own memory.

mod objects;
mod pages;
mod programs;
mod sites;
