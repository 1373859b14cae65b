//! Frame by frame agreement with an independent unwinder (framehop), on stacks of real programs that were
//! stopped at any instruction: in prologues, epilogues, linkage tables and system calls as well.
//!
//! Once on live processes, and once on fixtures, which are the same wherever the test runs. Recording them anew,
//! from the programs of the machine at hand:
//! `MEMTRACE_RECORD_STACKS=$PWD/memtrace/tests/fixtures cargo xtask test live_stacks`.

mod code;
mod comparison;
mod fixture;
mod live;
mod sparse;
use std::path::{Path, PathBuf};

use code::Code;
use comparison::Comparison;
use fixture::{Fixture, Recorder, Recording, Words};

use crate::support::load::{self, Busy};

/// Starts a program.
type Start = fn() -> Busy;

const PROGRAMS: [(&str, Start); 5] = [
    ("python3.11", load::python),
    ("perl", load::perl),
    ("sqlite3", load::sqlite),
    ("postgres", load::postgres),
    ("redis-server", load::redis),
];

/// Where to put fixtures, if they are to be recorded.
fn fixtures_to_record() -> Option<PathBuf> {
    std::env::var_os("MEMTRACE_RECORD_STACKS").map(PathBuf::from)
}

fn fixture_of(program: &str, folder: &Path) -> PathBuf {
    folder.join(format!("{program}.stacks.json.gz"))
}

/// Prints a line a program, and asserts what is claimed of all of them.
fn assert_agreement(comparisons: &[(&str, Comparison)]) {
    let mut total = Comparison::default();
    for (name, comparison) in comparisons {
        println!("| {name} {}", comparison.row());
        total.add_all(comparison);
    }
    println!("| total {}", total.row());
    for difference in total.different.iter().take(5) {
        println!("{difference}");
    }
    assert!(total.distinct() >= 1000, "only {} distinct stacks", total.distinct());
    assert!(total.different.is_empty(), "{} of {} differ", total.different.len(), total.distinct());
    assert!(total.ended_earlier * 50 <= total.distinct(), "{} end earlier", total.ended_earlier);
}

#[test]
fn live_stacks_of_real_programs_are_in_agreement_frame_by_frame() {
    let folder = fixtures_to_record();
    let comparisons = PROGRAMS.map(|(name, start)| {
        let mut comparison = Comparison::default();
        let mut recorder = Recorder::default();
        let images = live::stop_often(start(), |code, registers, memory| {
            let mut memory = Recording::of(memory);
            let ours = code.ours(registers, &mut memory);
            let theirs = code.theirs(registers, &mut memory);
            if comparison.add(&ours, &theirs) {
                recorder.add(registers, memory, &theirs);
            }
        });
        if let Some(folder) = &folder {
            recorder.fixture(name, &images).save(&fixture_of(name, folder));
        }
        (name, comparison)
    });
    assert_agreement(&comparisons);
}

#[test]
fn recorded_stacks_of_real_programs_are_in_agreement_frame_by_frame() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let comparisons = PROGRAMS.map(|(name, _)| {
        let fixture = Fixture::load(&fixture_of(name, &folder));
        let code = Code::of(&fixture.images());
        let mut comparison = Comparison::default();
        let mut memory = Words::default();
        for stack in &fixture.stacks {
            memory.change(&stack.words);
            let expected = stack.expected();
            let ours = code.ours(stack.registers(), &mut &memory);
            let theirs = code.theirs(stack.registers(), &mut &memory);
            assert_eq!(theirs, expected, "{name}: not the walk that was recorded");
            assert!(comparison.add(&ours, &expected), "{name}: a stack was recorded twice");
        }
        (name, comparison)
    });
    assert_agreement(&comparisons);
}
