//! Options of what is reported, how and where to. Only types.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::report::weight::Weight;

#[derive(Debug, Args)]
pub(crate) struct ReportArguments {
    /// The format of reports
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,

    /// The file that reports go to, which is made whole or not at all [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// The figure by which folded stacks weigh
    #[arg(long, value_enum, default_value_t = WeightArgument::InuseSpace)]
    pub(crate) weight: WeightArgument,

    /// The number of sites shown of each process; totals are always of all sites [default: 10 in the table, all elsewhere;
    /// in JSON of several processes in tier growth 100, with the number of those left out]
    #[arg(long, value_name = "N")]
    pub(crate) top: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people; live on a terminal
    Table,
    /// One object a report (docs/schema.json)
    Json,
    /// Folded stacks, for flame graph tools
    Folded,
    /// JUnit XML for CI, of the last report only: a test case for each leak suspect
    Junit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WeightArgument {
    /// Live bytes
    InuseSpace,
    /// Live objects
    InuseObjects,
    /// Bytes ever allocated
    AllocSpace,
    /// Objects ever allocated
    AllocObjects,
    /// Growth of live bytes, in bytes a second
    Growth,
}

impl From<WeightArgument> for Weight {
    fn from(argument: WeightArgument) -> Self {
        match argument {
            WeightArgument::InuseSpace => Self::InuseSpace,
            WeightArgument::InuseObjects => Self::InuseObjects,
            WeightArgument::AllocSpace => Self::AllocSpace,
            WeightArgument::AllocObjects => Self::AllocObjects,
            WeightArgument::Growth => Self::Growth,
        }
    }
}
