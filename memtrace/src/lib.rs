//! memtrace: who holds a live process's memory, and is it growing.
//!
//! Data flows one way: `cli -> pipeline -> {capture, symbolize, report} -> process -> model`.

pub mod capture;
pub mod cli;
pub mod model;
pub mod pipeline;
pub mod process;
pub mod report;
pub mod symbolize;
pub mod unwind;
