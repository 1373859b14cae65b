//! A report: what was seen of each target, ready to be rendered.

use std::{cmp::Reverse, time::Duration};

use super::{
    at_exit::AtExit,
    category::Category,
    figures::Figures,
    finding::{Finding, OneSided},
    frame::Stack,
    health::HealthCounter,
    memory::Memory,
    outcome::Outcome,
    run::Run,
    sizes::SizeHistogram,
    stats::{
        estimate::{Intervals, Uncertainty},
        teardown::BeforeEnd,
        trend,
    },
    subject::Subject,
    survival::{Amount, Survival},
    tier::Tier,
    totals::Totals,
    truncation::Truncation,
    verdict::{Judgement, Verdict},
};

/// A suspect that grows by less than this part of what the fastest site does explains little.
const EXPLAINS_LITTLE: f64 = 0.05;

/// A site's place in reports, before what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Other,
    /// A suspect that explains little of the growth.
    MinorSuspect,
    /// No suspect, and it grows by much more than those.
    Fastest,
    Suspect,
}

/// The order of reports: suspects first, which would drown among caches, then what holds most. Suspects that explain little of
/// the growth come behind the sites that explain it; a block that nothing points to needs no growth.
pub fn sort(sites: &mut [Site]) {
    // At present, where that is told: a leak that began a minute ago hardly shows in an hour.
    let growth = |site: &Site| site.judgement.reason.pace().map_or(site.growth_bytes_per_s, |pace| pace.slope_per_s);
    let fastest = sites.iter().map(growth).fold(0.0, f64::max);
    let is_suspect = |site: &Site| site.judgement.verdict == Verdict::LeakSuspect;
    let is_lost = |site: &Site| site.unreachable.is_some_and(|lost| lost.objects > 0);
    let is_minor = |site: &Site| !is_lost(site) && growth(site) < EXPLAINS_LITTLE * fastest;
    let minor = sites.iter().filter(|site| is_suspect(site) && is_minor(site));
    let outgrown = minor.map(growth).fold(0.0, f64::max);
    let rank = |site: &Site| match (is_suspect(site), is_minor(site)) {
        (true, false) => Rank::Suspect,
        (true, true) => Rank::MinorSuspect,
        (false, _) if outgrown > 0.0 && growth(site) * EXPLAINS_LITTLE > outgrown => Rank::Fastest,
        (false, _) => Rank::Other,
    };
    sites.sort_by_cached_key(|site| (Reverse((rank(site), site.held_bytes(), site.totals.alloc_bytes)), site.id));
}

/// Where blocks of a site are freed.
#[derive(Clone, Debug)]
pub struct FreedAt {
    /// How many frees were seen there.
    pub samples: u64,
    /// From the freeing function itself outwards.
    pub stack: Stack,
}

/// An allocation site; by default, one of which nothing is known.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// The same for the same code at the same place in the same images, whatever process or host.
    pub id: u64,
    /// The kind of memory that it allocates.
    pub category: Category,
    /// The memory that it has allocated and freed.
    pub totals: Totals,
    /// How sure that is; nothing where it was counted.
    pub uncertainty: Option<Uncertainty>,
    /// The slope of its live bytes.
    pub growth_bytes_per_s: f64,
    /// The judgement on it, with its confidence and reason.
    pub judgement: Judgement,
    /// Its holdings before its program freed them on its way out, where they had grown until then: its judgement and its slope are
    /// as of that moment.
    pub before_end: Option<BeforeEnd>,
    /// The part of it that could not be reached when its program was about to end; nothing where that was not looked at.
    pub unreachable: Option<Amount>,
    /// The suppression that lets it pass although it is a suspect, as its line has it.
    pub suppressed_by: Option<String>,
    /// Whether it was a suspect in the report that this one is compared with, and is one.
    pub in_baseline: bool,
    /// The fate of its blocks by age; nothing where that is not known.
    pub survival: Option<Survival>,
    /// How many of its blocks were freed within seconds of their allocation; nothing where that is not known.
    pub short_lived_objects: Option<u64>,
    /// Its live bytes when its process held most.
    pub at_peak_bytes: u64,
    /// How many of its live blocks are of what size, as far as they are known one by one.
    pub sizes: SizeHistogram,
    /// Where blocks of it are freed, most often first, of those frees that were looked at: only at sites whose old blocks
    /// accumulate.
    pub freed_at: Vec<FreedAt>,
    /// The age of its oldest live block.
    pub oldest_age: Option<Duration>,
    /// Why outer frames of its stack are missing; nothing where none is.
    pub truncation: Option<Truncation>,
    /// Whether a frame of its stack was found without unwind tables: by rows inferred from code, or by frame pointers.
    pub inferred: bool,
    /// How many stacks it is of, which differ in the depth of a recursion alone; 0 where there is none.
    pub stacks: usize,
    /// Where it allocates. Of several stacks, each round of recursion once.
    pub stack: Stack,
}

/// A target; by default, one of which nothing is known.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Whose memory it is.
    pub subject: Subject,
    /// The least exact tier that its figures rest on.
    pub tier: Tier,
    /// Whether memtrace chose that tier, to keep to a budget.
    pub chose_tier: bool,
    /// How many windows its figures rest on.
    pub windows: u32,
    /// Its memory over time, and which way that goes: resident memory, or the kernel's own. Nothing where it
    /// could not be read.
    pub memory: Option<Memory>,
    /// Its figures, by what was looked at.
    pub figures: Figures,
    /// The findings about it, beside its figures.
    pub findings: Vec<Finding>,
    /// Counts of lost events, and of what needs explaining.
    pub health: Vec<HealthCounter>,
    /// All of them, in the order of [`sort`].
    pub sites: Vec<Site>,
    /// Whether it had ended when the report was made.
    pub ended: bool,
}

impl Site {
    /// Its live bytes or, where its program freed them on its way out, those from before.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.before_end.map_or(self.totals.live_bytes(), |before| before.live_bytes)
    }

    /// Where its true figures lie; nothing where they are known.
    #[must_use]
    pub fn intervals(&self) -> Option<Intervals> {
        self.uncertainty.map(|uncertainty| Intervals::of(&self.totals, &uncertainty))
    }
}

impl Process {
    /// Whether it is the kernel, and of no single process.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        self.subject.program().is_none()
    }

    /// Which way its memory goes.
    #[must_use]
    pub fn trend(&self) -> trend::Judgement {
        self.memory.as_ref().map(|memory| memory.judgement).unwrap_or_default()
    }

    /// How much of the growth of its resident memory no block explains, where that is unusual.
    #[must_use]
    pub fn unexplained_bytes(&self) -> Option<u64> {
        self.findings.iter().find_map(|finding| match finding {
            Finding::UnexplainedGrowth { bytes, .. } => Some(*bytes),
            _ => None,
        })
    }

    /// The look at it when it was about to end; nothing where that was not asked for, or it has not ended.
    #[must_use]
    pub fn at_exit(&self) -> Option<&AtExit> {
        self.findings.iter().find_map(|finding| match finding {
            Finding::AtExit(at_exit) => Some(at_exit),
            _ => None,
        })
    }

    /// The allocators of which only one side is seen.
    #[must_use]
    pub fn one_sided(&self) -> &[OneSided] {
        let found = self.findings.iter().find_map(|finding| match finding {
            Finding::OneSided(found) => Some(found.as_slice()),
            _ => None,
        });
        found.unwrap_or_default()
    }

    /// Its live blocks when its resident memory was read last before it freed; nothing where it has not ended.
    #[must_use]
    pub fn before_end(&self) -> Option<&BeforeEnd> {
        self.findings.iter().find_map(|finding| match finding {
            Finding::BeforeEnd(before) => Some(before),
            _ => None,
        })
    }
}

/// The figures of a run, ready to be rendered.
#[derive(Clone, Debug)]
pub struct Report {
    /// The run that it is of.
    pub run: Run,
    /// Losses of the run as a whole, not of one target.
    pub health: Vec<HealthCounter>,
    /// The targets, most live bytes first.
    pub processes: Vec<Process>,
    /// The gate's outcome, in the last report of a run that has one.
    pub gate: Option<Outcome>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::verdict::Judgement;

    fn site(id: u64, verdict: Verdict, held_bytes: u64, growth_bytes_per_s: f64) -> Site {
        Site {
            id,
            totals: Totals::new(held_bytes, 1, 0, 0),
            growth_bytes_per_s,
            judgement: Judgement { verdict, ..Judgement::default() },
            ..Site::default()
        }
    }

    fn order(mut sites: Vec<Site>) -> Vec<u64> {
        sort(&mut sites);
        sites.iter().map(|site| site.id).collect()
    }

    #[test]
    fn suspects_come_before_what_holds_more() {
        let cache = site(1, Verdict::Plateau, 1 << 30, 0.0);
        let leaks = [site(2, Verdict::LeakSuspect, 1000, 100.0), site(3, Verdict::LeakSuspect, 2000, 100.0)];
        assert_eq!(order([vec![cache], leaks.to_vec()].concat()), [3, 2, 1]);
    }

    #[test]
    fn a_suspect_that_explains_little_comes_behind_what_explains_it() {
        let deque = site(1, Verdict::LeakSuspect, 46 << 10, 700.0);
        let strings = site(2, Verdict::Growing, 9 << 20, 160_000.0);
        let cache = site(3, Verdict::Stable, 1 << 30, 0.0);
        let slow = site(4, Verdict::Growing, 1 << 20, 900.0);
        assert_eq!(order(vec![deque.clone(), strings.clone(), cache.clone(), slow.clone()]), [2, 1, 3, 4]);
        // One to whose blocks nothing points comes before all, and so does one that explains all.
        let lost = Amount { bytes: 100, objects: 1 };
        let lost = Site { unreachable: Some(lost), ..site(6, Verdict::LeakSuspect, 100, 0.0) };
        assert_eq!(order(vec![strings.clone(), cache.clone(), lost]), [6, 3, 2]);
        let leak = site(5, Verdict::LeakSuspect, 8 << 20, 160_000.0);
        assert_eq!(order(vec![deque, strings, cache, slow, leak]), [5, 2, 1, 3, 4]);
    }
}
