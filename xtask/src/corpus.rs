//! `cargo xtask corpus`: how often the judge of sites is right, on programs of which that is known.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    document::{Document, VERDICTS},
    shell::{run, say, target},
    test,
};

/// How closely memtrace looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tier {
    /// As it does by default
    Auto,
    /// Every allocation
    Exact,
    /// One allocation in some
    Sampled,
}

impl Tier {
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Exact => "exact",
            Self::Sampled => "sampled",
        }
    }
}

/// The programs that are traced before they are judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Traced {
    /// All of them, afresh.
    All,
    /// Those whose names contain this; runs of others are left as they are.
    Only(String),
    /// None: the runs that are there are taken.
    Before,
}

/// Judges the corpus in a tier and, where that is asked for, writes down how that went, also where it went badly.
pub(crate) fn judge(tier: Tier, traced: &Traced, write: bool) -> Result<()> {
    let folder = target().join("tmp/corpus").join(tier.name());
    let mut environment = vec![("MEMTRACE_CORPUS_TIER", tier.name())];
    match traced {
        // The files of an earlier run are not to be taken for this one's.
        Traced::All => _ = fs::remove_dir_all(&folder),
        Traced::Only(names) => environment.push(("MEMTRACE_CORPUS_ONLY", names)),
        Traced::Before => environment.push(("MEMTRACE_CORPUS_TRACED", "1")),
    }
    let outcome = verdicts("leaks_are_suspects_and_innocents_are_not", &environment);
    if write {
        let mut document = Document::read(VERDICTS)?;
        document.put(&format!("corpus-{}", tier.name()), &table(&folder, "summary.md")?)?;
        if tier == Tier::Auto {
            document.put("programs", &table(&folder, "programs.md")?)?;
        }
        document.write()?;
        say(&format!("wrote {}", document.path.display()));
    }
    outcome
}

/// Compares what was said in the tiers exact and sampled when they were last run.
pub(crate) fn compare() -> Result<()> {
    verdicts("the_exact_and_the_sampled_tier_say_the_same", &[("MEMTRACE_CORPUS_TRACED", "1")])
}

/// Checks the labels of programs whose names contain `names`, whatever the judge says.
pub(crate) fn check_labels(names: &str) -> Result<()> {
    verdicts("leaks_go_on_and_innocents_stay_within_what_they_had_in_a_minute", &[("MEMTRACE_CORPUS_ONLY", names)])
}

/// Runs one of the tests that take long.
fn verdicts(name: &str, environment: &[(&str, &str)]) -> Result<()> {
    let mut command = test::prepare()?.cargo_test();
    command.envs(environment.iter().copied());
    let name = format!("verdicts::{name}");
    run(command.args(["--test", test::PROGRAM, "--", "--include-ignored", "--exact", &name, "--nocapture"]))
}

fn table(folder: &Path, name: &str) -> Result<String> {
    let path = folder.join(name);
    fs::read_to_string(&path).with_context(|| format!("the corpus was not judged: cannot read {}", path.display()))
}
