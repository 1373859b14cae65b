//! memtrace: who holds a live process's memory, and is it growing.
//!
//! Data flows one way: `cli -> monitor -> engine -> {governor, capture, analysis, symbolize, report} -> {bpf, looking, profile, unwind} ->
//! {process, reach} -> model`. A test holds the rooms to it (xtask/tests/layers).

pub mod analysis;
pub mod bpf;
pub mod capture;
pub mod cli;
pub mod engine;
pub mod governor;
pub mod looking;
pub mod model;
pub mod monitor;
pub mod process;
pub mod profile;
pub mod reach;
pub mod report;
pub mod symbolize;
pub mod unwind;
