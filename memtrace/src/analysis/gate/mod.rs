//! Which suspects matter to who waits for a verdict: those that are neither known and let pass, nor were there before.
//!
//! In: a report, suppressions, an older report's suspects. Out: marks on the report's sites, and the suspects that remain.

pub mod suppressions;
pub mod unseen;

use std::collections::HashSet;

use self::suppressions::Suppressions;
use crate::model::{
    category::Category,
    frame::{Frame, Stack, base_name},
    outcome::Tally,
    report::{Report, Site},
    verdict::Verdict,
};

/// The suspects of an older report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    /// Their sites.
    pub ids: HashSet<u64>,
    /// Their stacks, by name: a site's id is another in another build.
    pub chains: HashSet<Chain>,
}

/// A stack by names alone: what stays the same from build to build.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Chain {
    /// The kind of memory that is allocated there, as reports call it.
    pub category: String,
    /// From the allocation outwards: the function, or the last part of the image's path where it has no name.
    pub names: Vec<String>,
}

impl Chain {
    /// The chain of frames, given as functions and images; nothing where the first has no name, since then
    /// any place of that image would do.
    pub fn new<'a>(
        category: &str,
        frames: impl IntoIterator<Item = (Option<&'a str>, Option<&'a str>)>,
    ) -> Option<Self> {
        let mut frames = frames.into_iter().peekable();
        frames.peek()?.0?;
        let name = |(function, image): (Option<&str>, Option<&str>)| {
            function.or_else(|| image.map(base_name)).unwrap_or_default().to_owned()
        };
        Some(Self { category: category.to_owned(), names: frames.map(name).collect() })
    }

    fn of(category: Category, stack: &Stack) -> Option<Self> {
        let parts = |frame: &'_ Frame| -> (Option<String>, Option<String>) {
            let function = frame.function.as_ref().ok().map(|function| function.name.clone());
            (function, frame.place.in_image().0.map(|image| image.path.clone()))
        };
        let frames: Vec<_> = stack.frames().map(parts).collect();
        Self::new(category.name(), frames.iter().map(|(function, image)| (function.as_deref(), image.as_deref())))
    }
}

impl Baseline {
    fn has(&self, site: &Site) -> bool {
        self.ids.contains(&site.id)
            || Chain::of(site.category, &site.stack).is_some_and(|chain| self.chains.contains(&chain))
    }
}

/// The rules that let suspects pass.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// Known suspects.
    pub suppressions: Suppressions,
    /// The suspects of an older report; nothing where there is no older report.
    pub baseline: Option<Baseline>,
}

impl Gate {
    /// Marks the suspects of a report. Returns which suppressions have let any pass, by index.
    pub fn mark(&self, report: &mut Report) -> HashSet<usize> {
        let mut used = HashSet::new();
        for site in report.processes.iter_mut().flat_map(|process| &mut process.sites).filter(|site| is_suspect(site)) {
            if let Some(index) = self.suppressions.of(&site.stack) {
                site.suppressed_by = Some(self.suppressions.patterns[index].to_string());
                used.insert(index);
            }
            site.in_baseline = self.baseline.as_ref().is_some_and(|baseline| baseline.has(site));
        }
        used
    }
}

impl Tally {
    /// Counts suspects among sites that are marked.
    pub fn of<'a>(sites: impl IntoIterator<Item = &'a Site>) -> Self {
        let mut tally = Self::default();
        for site in sites.into_iter().filter(|site| is_suspect(site)) {
            let count = match (&site.suppressed_by, site.in_baseline) {
                (Some(_), _) => &mut tally.suppressed,
                (None, true) => &mut tally.in_baseline,
                (None, false) => &mut tally.remaining,
            };
            *count += 1;
        }
        tally
    }
}

/// Whether blocks of a site are thought to have leaked.
#[must_use]
pub fn is_suspect(site: &Site) -> bool {
    site.judgement.verdict == Verdict::LeakSuspect
}

/// Whether a site is a suspect that nothing lets pass.
#[must_use]
pub fn remains(site: &Site) -> bool {
    is_suspect(site) && site.suppressed_by.is_none() && !site.in_baseline
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    fn marked(gate: &Gate) -> (Report, HashSet<usize>) {
        let mut report = fixture::report();
        let used = gate.mark(&mut report);
        (report, used)
    }

    fn tally(report: &Report) -> (usize, usize, usize) {
        let Tally { remaining, suppressed, in_baseline } = Tally::of(&report.processes[0].sites);
        (remaining, suppressed, in_baseline)
    }

    #[test]
    fn suspects_remain_until_something_lets_them_pass() {
        assert_eq!(tally(&marked(&Gate::default()).0), (1, 0, 0));
        let suppressions = Suppressions::parse("leak:libfoo\nleak:handle_request").unwrap();
        let (report, used) = marked(&Gate { suppressions, baseline: None });
        assert_eq!((tally(&report), used), ((0, 1, 0), HashSet::from([1])));
        assert_eq!(report.processes[0].sites[0].suppressed_by.as_deref(), Some("leak:handle_request"));
        assert_eq!(report.processes[0].sites[1].suppressed_by, None, "no suspect, so not marked");
    }

    #[test]
    fn what_was_there_before_is_known_by_its_site_or_by_its_names() {
        let names = |names: &[&str]| {
            let chain = Chain::new("heap", names.iter().map(|name| (Some(*name), Some("/any/image"))));
            Baseline { chains: chain.into_iter().collect(), ..Baseline::default() }
        };
        let of = |baseline| tally(&marked(&Gate { baseline: Some(baseline), ..Gate::default() }).0);
        assert_eq!(of(Baseline { ids: HashSet::from([0xfeed]), ..Baseline::default() }), (0, 0, 1));
        assert_eq!(of(names(&["keep", "handle_request", "main"])), (0, 0, 1));
        assert_eq!(of(names(&["keep", "main"])), (1, 0, 0));
        assert_eq!(of(Baseline { ids: HashSet::from([0xbeef]), ..Baseline::default() }), (1, 0, 0));
    }

    #[test]
    fn frames_without_names_are_known_by_their_images_but_for_the_first() {
        let chain = |first| Chain::new("heap", [(first, Some("/a/x.so")), (None, Some("/b/libc.so.6"))]);
        assert_eq!(chain(Some("f")).unwrap().names, ["f", "libc.so.6"]);
        assert_eq!(chain(None), None);
        assert_eq!(Chain::new("heap", []), None);
    }
}
