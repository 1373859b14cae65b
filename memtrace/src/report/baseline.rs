//! An older report, read back: the suspects that it had.

use serde::Deserialize;
use thiserror::Error;

use crate::{
    analysis::gate::{Baseline, Chain},
    model::verdict::Verdict,
};

/// Why a file is no report.
#[derive(Debug, Error)]
pub enum BaselineError {
    /// It is no JSON, or not of a report.
    #[error("it is no report: {0}")]
    Json(#[from] serde_json::Error),
    /// Nothing is in it.
    #[error("it is empty")]
    Empty,
    /// It is of another kind.
    #[error("its schema is `{0}`, not `{SCHEMA}`", SCHEMA = super::json::SCHEMA)]
    Schema(String),
    /// A site's id is none.
    #[error("`{0}` is no site id")]
    Id(String),
}

/// The fields of a report that are read: all others may be as they like.
#[derive(Deserialize)]
struct OldReport {
    schema: String,
    processes: Vec<OldProcess>,
}

#[derive(Deserialize)]
struct OldProcess {
    sites: Vec<OldSite>,
}

#[derive(Deserialize)]
struct OldSite {
    id: String,
    category: String,
    verdict: String,
    frames: Vec<OldFrame>,
}

#[derive(Deserialize)]
struct OldFrame {
    function: Option<String>,
    image: Option<String>,
}

/// Reads what `memtrace --format json` has written: one report, or several one behind the other, of which the last counts.
///
/// # Errors
/// Where it is something else.
pub fn parse(text: &[u8]) -> Result<Baseline, BaselineError> {
    let mut last = None;
    for report in serde_json::Deserializer::from_slice(text).into_iter::<OldReport>() {
        last = Some(report?);
    }
    let OldReport { schema, processes } = last.ok_or(BaselineError::Empty)?;
    if schema != super::json::SCHEMA {
        return Err(BaselineError::Schema(schema));
    }
    let mut baseline = Baseline::default();
    let is_suspect = |site: &OldSite| site.verdict == Verdict::LeakSuspect.name();
    for site in processes.into_iter().flat_map(|process| process.sites).filter(is_suspect) {
        baseline.ids.insert(u64::from_str_radix(&site.id, 16).map_err(|_| BaselineError::Id(site.id.clone()))?);
        let frames = site.frames.iter().map(|frame| (frame.function.as_deref(), frame.image.as_deref()));
        baseline.chains.extend(Chain::new(&site.category, frames));
    }
    Ok(baseline)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        analysis::gate::Gate,
        report::{fixture, json},
    };

    fn written() -> Vec<u8> {
        let mut out = Vec::new();
        json::render(&fixture::report(), None, &mut out).unwrap();
        out
    }

    #[test]
    fn suspects_of_what_was_written_are_known_again() {
        let baseline = parse(&written()).unwrap();
        assert_eq!(baseline.ids, [0xfeed].into());
        let mut again = fixture::report();
        again.processes[0].sites[0].id = 0xf00d;
        Gate { baseline: Some(baseline), ..Gate::default() }.mark(&mut again);
        assert!(again.processes[0].sites[0].in_baseline && !again.processes[0].sites[1].in_baseline);
    }

    #[test]
    fn of_several_reports_the_last_counts() {
        let quiet = String::from_utf8(written()).unwrap().replace("leak-suspect", "stable");
        let text = [written(), quiet.into_bytes()].concat();
        assert_eq!(parse(&text).unwrap(), Baseline::default());
    }

    #[test]
    fn other_files_are_refused() {
        assert!(matches!(parse(b""), Err(BaselineError::Empty)));
        for text in ["{}", "[1]", "leak:foo", "{\"schema\":\"memtrace/1\"}", "\u{0}"] {
            assert!(matches!(parse(text.as_bytes()), Err(BaselineError::Json(_))), "{text}");
        }
        let other = String::from_utf8(written()).unwrap().replace("memtrace/1", "memtrace/9");
        assert!(matches!(parse(other.as_bytes()), Err(BaselineError::Schema(_))));
    }
}
