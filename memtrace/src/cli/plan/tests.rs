//! Every cell of the table, asked for by the words of a command line, with its outcome as it is written here.

use std::time::Duration;

use super::*;
use crate::{
    analysis::gate::unseen::Question,
    bpf::{Capacities, point::Scope},
    capture::attach::ProbePrograms,
    cli::args::{Arguments, Command},
    governor::budget::Budget,
    model::{
        category::{Category, KernelSource, PageKind},
        tier::Tier,
    },
    monitor::host::Reaction,
};

const FACTS: Facts = Facts { has_bpf_loop: true, has_terminal: false, verbose: 0 };

const TIERS: [&str; 5] = ["auto", "growth", "windowed", "sampled", "exact"];

/// The outcomes of `--tier auto`, `growth`, `windowed`, `sampled` and `exact`, a letter each, by the letters' [`meaning`].
///
/// A line is the memory of `--category`; a column is one of [`COLUMNS`].
#[rustfmt::skip]
const CELLS: [(&str, [&str; 9]); 16] = [
    //                          a process …: alone  gate     at-exit  follow   CMD alone gate     nothing  gate     at-exit
    ("",                       ["agwse", "aJwse", "XXXXX", "agwse", "agwse", "xJwse", "TTTTT", "TTTTT", "TTTTT"]),
    ("heap",                   ["aGwse", "aJwse", "XXXXX", "aGwse", "aGwse", "xJwse", "TTTTT", "TTTTT", "TTTTT"]),
    ("mmap",                   ["mGWse", "mJWse", "XXXXX", "mGWse", "mGWse", "mJWse", "TTTTT", "TTTTT", "TTTTT"]),
    ("pages",                  ["ggPPP", "JJJJJ", "XXXXX", "ggPPP", "ggPPP", "JJJJJ", "TTTTT", "TTTTT", "TTTTT"]),
    ("heap,mmap",              ["mGWse", "mJWse", "XXXXX", "mGWse", "mGWse", "xJWse", "TTTTT", "TTTTT", "TTTTT"]),
    ("heap,pages",             ["aGwse", "aJwse", "XXXXX", "aGwse", "aGwse", "xJwse", "TTTTT", "TTTTT", "TTTTT"]),
    ("mmap,pages",             ["mGWse", "mJWse", "XXXXX", "mGWse", "mGWse", "mJWse", "TTTTT", "TTTTT", "TTTTT"]),
    ("heap,mmap,pages",        ["mGWse", "mJWse", "XXXXX", "mGWse", "mGWse", "xJWse", "TTTTT", "TTTTT", "TTTTT"]),
    ("kernel",                 ["eKKKe", "JKKKJ", "XKKKX", "FFFFF", "CCCCC", "CCCCC", "eKKKe", "JKKKJ", "XKKKX"]),
    ("heap,kernel",            ["OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO"]),
    ("mmap,kernel",            ["OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO"]),
    ("pages,kernel",           ["OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO"]),
    ("heap,mmap,kernel",       ["OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO"]),
    ("heap,pages,kernel",      ["OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO"]),
    ("mmap,pages,kernel",      ["OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO"]),
    ("heap,mmap,pages,kernel", ["OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO", "OOOOO"]),
];

/// The command lines of each column: options before, words behind.
type Words = (&'static [&'static str], &'static [&'static str]);

const ONE_OR_MORE: [&[&str]; 4] = [&["--pid", "7"], &["--comm", "a"], &["--cgroup", "/a"], &["--all"]];
const COLUMNS: [&[Words]; 9] = [
    &[(ONE_OR_MORE[0], &[]), (ONE_OR_MORE[1], &[]), (ONE_OR_MORE[2], &[]), (ONE_OR_MORE[3], &[])],
    &[
        (ONE_OR_MORE[0], &["--fail-on-leak"]),
        (ONE_OR_MORE[1], &["--fail-on-leak"]),
        (ONE_OR_MORE[2], &["--fail-on-leak"]),
        (ONE_OR_MORE[3], &["--fail-on-leak"]),
    ],
    &[
        (ONE_OR_MORE[0], &["--at-exit"]),
        (ONE_OR_MORE[1], &["--at-exit", "--fail-on-leak"]),
        (ONE_OR_MORE[2], &["--at-exit"]),
        (ONE_OR_MORE[3], &["--at-exit"]),
    ],
    &[(ONE_OR_MORE[0], &["--follow"]), (ONE_OR_MORE[0], &["--follow=daemons"])],
    &[(&[], &["--", "true"]), (&["--follow"], &["--", "true"])],
    &[(&["--fail-on-leak"], &["--", "true"]), (&["--at-exit", "--follow"], &["--", "true"])],
    &[(&[], &[])],
    &[(&["--fail-on-leak"], &[])],
    &[(&["--at-exit"], &[])],
];

/// The outcome of a command line.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// The tier, the budget where there is one, and words for stderr.
    Traced(Tier, Option<Budget>, Vec<Note>),
    Refused(Refusal),
}

/// The outcome that a letter of [`CELLS`] stands for: small letters for what is traced, capitals for refusals.
fn meaning(letter: char) -> Outcome {
    let traced = |tier, notes: &[Note]| Outcome::Traced(tier, None, notes.to_vec());
    let within = |tier| Outcome::Traced(tier, Some(Budget(0.1)), Vec::new());
    let refused = |message, hint| Outcome::Refused(Refusal { message, hint });
    match letter {
        'a' => within(Tier::Exact),
        'w' => within(Tier::Windowed),
        's' => within(Tier::Sampled { sample_bytes: 1024 }),
        'e' => traced(Tier::Exact, &[]),
        'g' => traced(Tier::Growth, &[]),
        'x' => traced(
            Tier::Exact,
            &[Note::Choice("a look at the end of -- CMD takes every allocation: tier exact, whatever that costs")],
        ),
        'm' => traced(
            Tier::Exact,
            &[Note::Choice("--category mmap takes every allocation: tier exact, whatever that costs")],
        ),
        'T' => refused(
            "a target is required: --pid <N>, --comm <NAME>, --cgroup <PATH>, --all or -- <CMD>...",
            "`memtrace --help` shows every option, with examples",
        ),
        'O' => refused(
            "--category kernel does not go with other categories",
            "run memtrace twice, at the same time if you like",
        ),
        'C' => refused(
            "--category kernel does not go with -- CMD",
            "start memtrace first, with --comm NAME or without any target, and then CMD",
        ),
        'F' => refused(
            "--category kernel does not go with --follow",
            "use --comm or --cgroup, or leave it out for all of the host",
        ),
        'K' => refused("--category kernel does not go with this --tier", "leave it out: every allocation is counted"),
        'X' => refused(
            "--at-exit looks at the end only of -- CMD, which memtrace has seen from its beginning",
            "start the program with memtrace: memtrace --at-exit -- CMD",
        ),
        'J' => refused(
            "pages and the kernel's memory are named, and nobody is convicted: --fail-on-leak would never fail",
            "leave out --category and --tier growth, or --fail-on-leak",
        ),
        'P' => refused(
            "--category pages alone has no allocations to look at in this tier",
            "use --tier growth, or --category heap,pages",
        ),
        'G' => refused(
            "tier `growth` sees pages become resident, no allocations",
            "leave out --category, or use another tier",
        ),
        'W' => {
            refused("--category mmap takes every allocation, which tier `windowed` does not see", "use --tier exact")
        }
        other => panic!("{other} has no meaning"),
    }
}

/// The categories that a run has which was asked for these.
fn categories(asked: &str, tier: Tier) -> Vec<Category> {
    let words = match (asked, tier) {
        ("", Tier::Growth) => "pages",
        ("", _) => "heap",
        (words, _) => words,
    };
    let of_word = |word| match word {
        "heap" => vec![Category::Heap],
        "mmap" => vec![Category::Mmap],
        "pages" => PageKind::ALL.map(Category::Pages).to_vec(),
        "kernel" => KernelSource::ALL.map(Category::Kernel).to_vec(),
        other => panic!("{other} is no category"),
    };
    words.split(',').flat_map(of_word).collect()
}

fn parsed(words: &[&str]) -> Arguments {
    Arguments::parse([&["memtrace"], words].concat()).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// The error of clap for words that it does not take.
fn not_parsed(words: &[&str]) -> String {
    Arguments::parse([&["memtrace"], words].concat()).unwrap_err().to_string()
}

/// Looks at the plan for a run.
fn with_plan<T>(words: &[&str], facts: Facts, look: impl FnOnce(&trace::Plan<'_>) -> T) -> T {
    look(&trace::plan(&parsed(words).trace, facts).unwrap())
}

#[test]
fn every_cell_of_tier_memory_and_target_is_traced_or_refused_as_it_is_written() {
    let mut asked = 0;
    for (category, columns) in CELLS {
        for (letters, lines) in columns.iter().zip(COLUMNS) {
            assert_eq!(letters.len(), TIERS.len());
            for (letter, tier) in letters.chars().zip(TIERS) {
                for (before, behind) in lines {
                    let memory = [["--category", category]];
                    let memory = if category.is_empty() { &[][..] } else { memory.as_flattened() };
                    let words = [before, memory, &["--tier", tier], behind].concat();
                    let actual = match trace::plan(&parsed(&words).trace, FACTS) {
                        Ok(trace::Plan { options, notes, .. }) => {
                            assert_eq!(options.categories, categories(category, options.tier), "{words:?}");
                            Outcome::Traced(options.tier, options.budget.map(|budget| budget.budget), notes)
                        }
                        Err(refusal) => Outcome::Refused(refusal),
                    };
                    assert_eq!(actual, meaning(letter), "memtrace {}", words.join(" "));
                    asked += 1;
                }
            }
        }
    }
    assert_eq!(asked, 16 * 5 * 21);
}

#[test]
fn the_default_tier_is_auto() {
    for words in [&["--pid", "7"][..], &["--category", "mmap", "--", "true"], &["--category", "pages", "--all"]] {
        let auto = [&["--tier", "auto"], words].concat();
        let tier = |plan: &trace::Plan<'_>| (plan.options.tier, plan.options.budget, plan.notes.clone());
        assert_eq!(with_plan(words, FACTS, tier), with_plan(&auto, FACTS, tier), "{words:?}");
    }
}

#[test]
fn functions_that_the_user_names_are_none_of_the_kernels() {
    let pair = ["--alloc", "app:get(size=arg0)->ret", "--free", "app:put(ptr=arg0)"];
    let words = [&["--category", "kernel"], &pair[..]].concat();
    let refusal = trace::plan(&parsed(&words).trace, FACTS).unwrap_err();
    assert_eq!(
        (refusal.message, refusal.hint),
        ("--category kernel does not go with --alloc and --free", "leave them out")
    );
    let words = [&["--pid", "7"], &pair[..]].concat();
    assert_eq!(with_plan(&words, FACTS, |plan| plan.options.custom.len()), 2);
}

#[test]
fn targets_that_do_not_go_together_are_a_matter_of_grammar() {
    let targets = ["--pid=7", "--comm=a", "--cgroup=/a", "--all"];
    for (index, one) in targets.iter().enumerate() {
        for other in &targets[index + 1..] {
            assert!(not_parsed(&[one, other]).contains("cannot be used with"), "{one} {other}");
        }
        assert!(not_parsed(&[one, "--", "true"]).contains("cannot be used with"), "{one} -- CMD");
    }
    for begins_by_itself in &targets[1..] {
        let error = not_parsed(&["--follow", begins_by_itself]);
        assert!(error.contains("'--follow[=<UNTIL>]' cannot be used with"), "{error}");
    }
}

#[test]
fn the_gate_asks_of_ends_where_the_heap_of_a_command_is_traced_and_else_of_growth() {
    let question = |words: &[&str]| with_plan(words, FACTS, |plan| (plan.question, plan.options.at_exit));
    let growth = |each| (Some(Question::Growth { each }), false);
    assert_eq!(question(&["--", "true"]), (None, false));
    assert_eq!(question(&["--at-exit", "--", "true"]), (Some(Question::Ends), true));
    assert_eq!(question(&["--fail-on-leak", "--category", "heap,pages", "--", "true"]), (Some(Question::Ends), true));
    assert_eq!(question(&["--fail-on-leak", "--category", "mmap", "--", "true"]), growth(true));
    assert_eq!(question(&["--fail-on-leak", "--pid", "7"]), growth(true));
    assert_eq!(question(&["--fail-on-leak", "--comm", "a"]), growth(false));
    assert_eq!(question(&["--fail-on-leak", "--all"]), growth(false));
}

#[test]
fn tables_are_sized_by_target_and_memory_and_by_the_users_word() {
    let capacities = |words: &[&str]| with_plan(words, FACTS, |plan| plan.options.capacities);
    let (few, many) = (Capacities::of(Scope::Targets), Capacities::of(Scope::EveryProcess));
    assert_eq!(capacities(&["--pid", "7"]), few);
    assert_eq!(capacities(&["--pid", "7", "--follow"]), many);
    assert_eq!(capacities(&["--all"]), many);
    assert_eq!(capacities(&["--category", "kernel"]), Capacities::of_kernel());
    assert_eq!(capacities(&["--pid", "7", "--max-blocks", "9"]), Capacities { blocks: 9, ..few });
    let growth = ["--pid", "7", "--tier", "growth", "--max-blocks", "9"];
    assert_eq!(capacities(&growth), Capacities { blocks: 1, ..few });
    assert_eq!(with_plan(&growth, FACTS, |plan| plan.options.asked.blocks), None);
}

#[test]
fn nothing_is_hooked_in_tier_growth_even_where_empty_probes_are_asked_for() {
    let programs = |words: &[&str]| with_plan(words, FACTS, |plan| plan.options.programs());
    assert_eq!(programs(&["--pid", "7"]), ProbePrograms::Tracing);
    assert_eq!(programs(&["--pid", "7", "--empty-probes"]), ProbePrograms::Empty);
    assert_eq!(programs(&["--pid", "7", "--empty-probes", "--tier", "growth"]), ProbePrograms::Nothing);
}

#[test]
fn the_table_alone_is_live_and_only_on_a_terminal() {
    let terminal = Facts { has_terminal: true, ..FACTS };
    let live = |words: &[&str], facts| with_plan(words, facts, |plan| (plan.is_live, plan.options.interval));
    let second = Some(Duration::from_secs(1));
    assert_eq!(live(&["--pid", "7"], terminal), (true, second));
    assert_eq!(live(&["--pid", "7"], FACTS), (false, None));
    assert_eq!(live(&["--pid", "7", "-o", "out"], terminal), (false, None));
    assert_eq!(live(&["--pid", "7", "--format", "json"], terminal), (false, None));
    assert_eq!(live(&["--pid", "7", "--interval", "1s"], FACTS), (false, second));
}

#[test]
fn a_kernel_that_is_too_old_for_rows_is_worth_a_warning_unless_it_was_told() {
    let old = Facts { has_bpf_loop: false, ..FACTS };
    let unwind = |words: &[&str]| with_plan(words, old, |plan| (plan.options.unwind, plan.notes.len()));
    assert_eq!(unwind(&["--pid", "7"]), (Unwind::FramePointers, 1));
    assert_eq!(unwind(&["--pid", "7", "--unwind", "fp"]), (Unwind::FramePointers, 0));
    assert_eq!(unwind(&["--pid", "7", "--unwind", "dwarf"]), (Unwind::Rows, 0));
    assert_eq!(with_plan(&["--pid", "7"], FACTS, |plan| plan.options.unwind), Unwind::Rows);
}

#[test]
fn plans_are_made_without_a_system_call_a_clock_or_a_word() {
    let sources =
        [include_str!("mod.rs"), include_str!("table.rs"), include_str!("trace.rs"), include_str!("watch.rs")];
    for source in sources {
        for forbidden in
            ["fs::", "env::", "io::", "libc", "rustix", "::now()", "print!", "println!", "log::", "has_bpf_loop()"]
        {
            assert!(!source.contains(forbidden), "{forbidden} in {source}");
        }
    }
}

/// `memtrace watch` with a threshold and these words.
fn watching(words: &[&str]) -> Result<watch::Plan, Refusal> {
    let arguments = parsed(&[&["watch", "--threshold", "1MiB"], words].concat());
    let Some(Command::Watch(watched)) = &arguments.command else { panic!("{words:?} do not watch") };
    watch::plan(watched, FACTS)
}

#[test]
fn whoever_is_watched_is_traced_in_one_cell_alone() {
    for target in ONE_OR_MORE {
        let Reaction::Trace(options) = watching(target).unwrap().watched.reaction else { panic!("{target:?}") };
        assert_eq!((options.tier, options.categories), (Tier::Exact, vec![Category::Heap]));
        assert_eq!(options.budget.map(|budget| budget.budget), Some(Budget(0.1)));
    }
    for (words, message) in [
        (&["--all", "--tier", "exact"][..], "unexpected argument '--tier'"),
        (&["--all", "--category", "heap"], "unexpected argument '--category'"),
        (&["--all", "--follow"], "unexpected argument '--follow'"),
        (&["--all", "--fail-on-leak"], "unexpected argument '--fail-on-leak'"),
        (&["--", "true"], "unexpected argument 'true'"),
        (&["--pid", "7", "--all"], "cannot be used with"),
        (&["--comm", "a", "--cgroup", "/a"], "cannot be used with"),
        (&[], "required arguments were not provided"),
    ] {
        let error = not_parsed(&[&["watch", "--threshold", "1MiB"], words].concat());
        assert!(error.contains(message), "{words:?}: {error}");
    }
}

#[test]
fn recordings_are_json_and_commands_report_nothing() {
    let refusal = |words: &[&str]| watching(words).err().map(|refusal| (refusal.message, refusal.hint));
    let folded = ["--all", "--on-threshold", "record", "--format", "folded"];
    let json_only = ("recordings are JSON", "leave out --format, or use --on-threshold report");
    assert_eq!(refusal(&folded), Some(json_only));
    assert_eq!(refusal(&["--all", "--on-threshold", "record", "--format", "json"]), None);
    let file = ["--all", "--on-threshold", "exec:true", "-o", "out"];
    let no_report = ("a command that is run writes no report", "leave out -o, or use --on-threshold report");
    assert_eq!(refusal(&file), Some(no_report));
    assert_eq!(refusal(&file[..3]), None);
}
