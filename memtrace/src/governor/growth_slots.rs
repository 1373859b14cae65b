//! The slots of tier `growth`: which processes of a host are looked at by stack, and whose slot another process takes over.
//!
//! In: the resident memory and the age of every process at each scan, the cost of a look at one, and how many slots are
//! unused. Out: which processes become targets, and which targets are let go. A slot is for a process that grows steadily:
//! compilers grow as fast as any leak, for the second or two that they live, and their code takes longest to look up.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    time::Duration,
};

/// A process that has grown by this much is worth a look: more than programs that do nothing new come by, and a leak of 10 KiB a
/// second in a quarter of a minute.
const WORTH_A_LOOK_BYTES: u64 = 128 << 10;
/// Growth by less than this is no rise: half of the steps in which the kernel tells of a slow leak (32 pages a CPU).
const RISE_BYTES: u64 = 64 << 10;
/// A process that has risen at so many scans grows steadily, and a burst does not.
const STEADY_RISES: usize = 4;
/// A process that has not risen for so long is flat.
const FLAT: Duration = Duration::from_secs(60);
/// A younger process is not looked at: most of them never grow old.
const YOUNGEST: Duration = Duration::from_secs(3);
/// A process has lived for so many times as long as a look at it takes, before it gets that look: it may be expected to live
/// on for as long again, so that the look is a tenth of the time that it is of use.
const PATIENCE: u32 = 10;

/// A process at a scan.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Its thread group id.
    pub pid: NonZeroU32,
    /// Tells it from another that has its pid later.
    pub serial: u64,
    /// Its resident memory.
    pub rss_bytes: u64,
    /// How long it has lived.
    pub age: Duration,
}

/// The slots at a scan.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    /// The processes that have one.
    pub taken: BTreeSet<NonZeroU32>,
    /// How many nobody has.
    pub unused: usize,
    /// Whether the tables that all slots share are nearly full.
    pub is_crowded: bool,
}

/// A step of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The process gets an unused slot.
    Look(NonZeroU32),
    /// The target loses its slot.
    LetGo(NonZeroU32),
    /// The process would get a slot, and there is none: told once of each.
    Refuse(NonZeroU32),
}

/// The growth of every process of a host.
#[derive(Debug, Default)]
pub struct GrowthSlots {
    tracks: BTreeMap<NonZeroU32, Track>,
    now: Duration,
}

/// The growth of a process.
#[derive(Debug)]
struct Track {
    serial: u64,
    age: Duration,
    /// Its resident memory when it began to grow, and the most that it has had since.
    base_bytes: u64,
    top_bytes: u64,
    /// The times of its last rises: [`STEADY_RISES`] at most, the oldest first.
    rises: Vec<Duration>,
    was_refused: bool,
}

impl GrowthSlots {
    /// Takes in a scan of all processes. Those that are not in it any more are forgotten.
    pub fn note(&mut self, now: Duration, seen: impl Iterator<Item = Seen>) {
        self.now = now;
        let mut before = std::mem::take(&mut self.tracks);
        for process in seen {
            let known = before.remove(&process.pid).filter(|track| track.serial == process.serial);
            let mut track = known.unwrap_or_else(|| Track::begin(&process));
            track.note(now, &process);
            self.tracks.insert(process.pid, track);
        }
    }

    /// The steps to take now, in their order; `cost` tells how long a look at a process takes.
    pub fn decide(&mut self, slots: &Slots, cost: impl Fn(NonZeroU32) -> Duration) -> Vec<Step> {
        let now = self.now;
        let is_wanted = |pid: &NonZeroU32, track: &Track| !slots.taken.contains(pid) && track.is_worth_a_look(now);
        let priced = self.tracks.iter().filter(|(pid, track)| is_wanted(pid, track));
        let mut wanted: Vec<(Reverse<bool>, Duration, Reverse<u64>, NonZeroU32)> = priced
            .filter_map(|(pid, track)| {
                let cost = cost(*pid);
                let is_due = track.age >= cost * PATIENCE;
                is_due.then(|| (Reverse(track.is_steady(now)), cost, Reverse(track.grown_bytes()), *pid))
            })
            .collect();
        wanted.sort_unstable();
        let mut replaceable = self.replaceable(slots);
        let mut unused = slots.unused;
        let mut steps = Vec::new();
        if slots.is_crowded {
            steps.extend(replaceable.next().map(Step::LetGo));
            unused += steps.len();
        }
        for (Reverse(is_steady), .., pid) in wanted {
            if unused > 0 {
                unused -= 1;
            } else if let Some(target) = is_steady.then(|| replaceable.next()).flatten() {
                steps.push(Step::LetGo(target));
            } else {
                steps.extend(self.refuse(pid).then_some(Step::Refuse(pid)));
                continue;
            }
            steps.push(Step::Look(pid));
        }
        for step in &steps {
            if let Step::LetGo(pid) = step {
                // That it is not looked at any more is told by this step.
                self.refuse(*pid);
            }
        }
        steps
    }

    /// Notes that a process gets no slot. Returns whether that is news.
    fn refuse(&mut self, pid: NonZeroU32) -> bool {
        self.tracks.get_mut(&pid).is_some_and(|track| !std::mem::replace(&mut track.was_refused, true))
    }

    /// The targets that do not grow steadily: those first that have not risen for longest.
    fn replaceable(&self, slots: &Slots) -> impl Iterator<Item = NonZeroU32> + use<> {
        // Targets that no scan has seen are about to end, and give their slots back by themselves.
        let known = slots.taken.iter().filter_map(|pid| Some((self.tracks.get(pid)?, *pid)));
        let unsteady = known.filter(|(track, _)| !track.is_steady(self.now));
        let mut unsteady: Vec<(Option<Duration>, NonZeroU32)> =
            unsteady.map(|(track, pid)| (track.rises.last().copied(), pid)).collect();
        unsteady.sort_unstable();
        unsteady.into_iter().map(|(_, pid)| pid)
    }
}

impl Track {
    fn begin(seen: &Seen) -> Self {
        let Seen { serial, rss_bytes, age, .. } = *seen;
        Self { serial, age, base_bytes: rss_bytes, top_bytes: rss_bytes, rises: Vec::new(), was_refused: false }
    }

    fn note(&mut self, now: Duration, seen: &Seen) {
        self.age = seen.age;
        if seen.rss_bytes >= self.top_bytes.saturating_add(RISE_BYTES) {
            self.top_bytes = seen.rss_bytes;
            if self.rises.len() == STEADY_RISES {
                self.rises.remove(0);
            }
            self.rises.push(now);
        } else if seen.rss_bytes < self.base_bytes.midpoint(self.top_bytes) {
            // It has given back more than half of its growth: a swing, which may begin again.
            (self.base_bytes, self.top_bytes) = (seen.rss_bytes, seen.rss_bytes);
            self.rises.clear();
        }
    }

    fn grown_bytes(&self) -> u64 {
        self.top_bytes - self.base_bytes
    }

    fn is_flat(&self, now: Duration) -> bool {
        self.rises.last().is_none_or(|last| now.saturating_sub(*last) >= FLAT)
    }

    fn is_steady(&self, now: Duration) -> bool {
        self.rises.len() == STEADY_RISES && !self.is_flat(now)
    }

    fn is_worth_a_look(&self, now: Duration) -> bool {
        self.age >= YOUNGEST && self.grown_bytes() >= WORTH_A_LOOK_BYTES && !self.is_flat(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn pid(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    /// A host whose processes are seen once a second: `(pid, born, rss)` of those that live at a second.
    struct Host {
        policy: GrowthSlots,
        taken: BTreeSet<NonZeroU32>,
        capacity: usize,
        refused: Vec<u32>,
    }

    impl Host {
        fn new(capacity: usize) -> Self {
            Self { policy: GrowthSlots::default(), taken: BTreeSet::new(), capacity, refused: Vec::new() }
        }

        /// A second passes. Returns the steps that were taken.
        fn second(&mut self, at: u64, live: &[(u32, u64, u64)], cost: impl Fn(u32) -> Duration) -> Vec<Step> {
            self.taken.retain(|taken| live.iter().any(|(number, ..)| pid(*number) == *taken));
            let seen = live.iter().map(|(number, born, rss_bytes)| Seen {
                pid: pid(*number),
                serial: *born,
                rss_bytes: *rss_bytes,
                age: Duration::from_secs(at - born),
            });
            self.policy.note(Duration::from_secs(at), seen);
            let unused = self.capacity - self.taken.len();
            let slots = Slots { taken: self.taken.clone(), unused, is_crowded: false };
            let steps = self.policy.decide(&slots, |pid| cost(pid.get()));
            for step in &steps {
                match step {
                    Step::Look(pid) => assert!(self.taken.insert(*pid)),
                    Step::LetGo(pid) => assert!(self.taken.remove(pid)),
                    Step::Refuse(pid) => self.refused.push(pid.get()),
                }
                assert!(self.taken.len() <= self.capacity, "{steps:?}");
            }
            steps
        }

        fn looks_at(&self, number: u32) -> bool {
            self.taken.contains(&pid(number))
        }
    }

    fn free(_: u32) -> Duration {
        Duration::ZERO
    }

    #[test]
    fn a_leak_beside_a_busy_build_is_looked_at_and_no_short_lived_process_is() {
        let mut host = Host::new(64);
        for at in 0..20_u32 {
            // A compiler a second, each of which lives for two and takes 50 MiB in each.
            let compiler = |born: u32| (100 + born, u64::from(born), u64::from(1 + at - born) * 50 * MIB);
            let mut live: Vec<_> = (at.saturating_sub(1)..=at).map(compiler).collect();
            live.push((1, 0, MIB + u64::from(at) * MIB));
            host.second(u64::from(at), &live, free);
        }
        assert_eq!(host.taken, BTreeSet::from([pid(1)]));
    }

    #[test]
    fn a_look_waits_for_ten_times_as_long_as_it_takes() {
        let cost = |number: u32| Duration::from_secs(if number == 2 { 2 } else { 0 });
        let mut host = Host::new(64);
        for at in 0..=20 {
            assert!(!host.looks_at(2), "at {at}");
            host.second(at, &[(1, 0, at * MIB), (2, 0, at * 100 * MIB)], cost);
            assert_eq!(host.looks_at(1), at >= 3, "at {at}");
        }
        assert!(host.looks_at(2));
    }

    #[test]
    fn steady_growth_takes_over_the_slot_of_a_burst_and_never_that_of_steady_growth() {
        let mut host = Host::new(2);
        let live = |at: u64| {
            [
                // Two that have grown once, at first, and one that leaks slowly from the fourth second on.
                (1, 0, if at > 0 { 10 * MIB } else { MIB }),
                (2, 0, if at > 1 { 10 * MIB } else { MIB }),
                (3, 0, MIB + at.saturating_sub(4) * MIB / 8),
            ]
        };
        (0..8).for_each(|at| drop(host.second(at, &live(at), free)));
        assert!(host.looks_at(1) && host.looks_at(2), "nobody grows steadily yet");
        assert_eq!(host.refused, [3], "once");
        assert_eq!(host.second(8, &live(8), free), [Step::LetGo(pid(1)), Step::Look(pid(3))]);
        // Others that grow as steadily find the slot of the other burst, and then none.
        let with_others = |at: u64| {
            let others = (10..13).map(|number| (number, 0, at * MIB));
            live(at).into_iter().chain(others).collect::<Vec<_>>()
        };
        (9..30).for_each(|at| drop(host.second(at, &with_others(at), free)));
        assert!(host.looks_at(3), "{:?}", host.taken);
        assert_eq!(host.taken.len(), 2);
        assert!(!host.looks_at(2) && !host.refused.contains(&1) && !host.refused.contains(&2), "{:?}", host.refused);
    }

    #[test]
    fn the_slot_of_a_process_that_stopped_growing_goes_to_the_next() {
        let mut host = Host::new(1);
        let live = |at: u64| [(1, 0, at.min(10) * MIB), (2, 0, MIB + at.saturating_sub(30) * MIB)];
        (0..60).for_each(|at| drop(host.second(at, &live(at), free)));
        assert!(host.looks_at(1), "it has grown steadily until a minute ago");
        (60..72).for_each(|at| drop(host.second(at, &live(at), free)));
        assert!(host.looks_at(2) && !host.looks_at(1));
    }

    #[test]
    fn a_slot_of_an_ended_process_is_used_again() {
        let mut host = Host::new(1);
        for at in 0..10 {
            host.second(at, &[(1, 0, at * MIB)], free);
        }
        assert!(host.looks_at(1));
        for at in 10..20 {
            host.second(at, &[(2, 5, at * MIB)], free);
        }
        assert!(host.looks_at(2));
    }

    #[test]
    fn another_process_with_the_same_pid_begins_anew() {
        let mut host = Host::new(1);
        (0..3).for_each(|at| drop(host.second(at, &[(1, 0, MIB + at * 8 * MIB)], free)));
        let steps = (3..20).flat_map(|at| host.second(at, &[(1, 3, 17 * MIB)], free)).collect::<Vec<_>>();
        assert_eq!(steps, []);
    }

    #[test]
    fn swings_are_not_steady() {
        let mut policy = GrowthSlots::default();
        for at in 0..40 {
            let rss_bytes = MIB + at % 4 * MIB;
            let age = Duration::from_secs(at);
            policy.note(age, [Seen { pid: pid(1), serial: 1, rss_bytes, age }].into_iter());
            assert!(!policy.tracks[&pid(1)].is_steady(age));
        }
    }

    #[test]
    fn crowded_tables_cost_a_target_that_does_not_grow_steadily_its_slot() {
        let mut policy = GrowthSlots::default();
        for at in 0..10 {
            let age = Duration::from_secs(at);
            let seen = [(1, at * MIB), (2, at.min(1) * MIB)];
            policy.note(
                age,
                seen.into_iter().map(|(number, rss_bytes)| Seen { pid: pid(number), serial: 1, rss_bytes, age }),
            );
        }
        let slots = |is_crowded| Slots { taken: BTreeSet::from([pid(1), pid(2)]), unused: 5, is_crowded };
        assert_eq!(policy.decide(&slots(false), |_| Duration::ZERO), []);
        assert_eq!(policy.decide(&slots(true), |_| Duration::ZERO), [Step::LetGo(pid(2))]);
    }
}
