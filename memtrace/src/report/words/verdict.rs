//! Why a site has its verdict, in one sentence.

use std::time::Duration;

use super::units;
use crate::model::{
    report::Site,
    stats::estimate::MET_ENOUGH,
    survival::Amount,
    verdict::LONG_ENOUGH,
    verdict_reason::{Doubt, Pace, Survivors, VerdictReason},
};

/// Why a site has its verdict, and in how many stacks.
#[must_use]
pub fn of_site(site: &Site) -> String {
    let reason = reason(&site.judgement.reason);
    match site.stacks {
        ..=1 => reason,
        stacks => {
            let stacks = units::count(stacks as u64);
            let told = format!("in {stacks} stacks, which differ in the depth of recursion");
            if reason.is_empty() { told } else { format!("{reason}; {told}") }
        }
    }
}

/// Why a site has its verdict.
#[must_use]
pub fn reason(reason: &VerdictReason) -> String {
    use VerdictReason as Why;
    match reason {
        Why::Unjudged => String::new(),
        Why::NothingLive => "nothing of it is live".to_owned(),
        Why::SeenFor { seconds } => format!("seen for {}; a verdict takes {} s", span(*seconds), LONG_ENOUGH.as_secs()),
        Why::GrowsSoFar { slope_per_s, seconds } => format!(
            "{} in {}; whether it is freed again takes {} s to tell",
            units::bytes_per_s(*slope_per_s),
            span(*seconds),
            LONG_ENOUGH.as_secs()
        ),
        Why::FirstSeen { seconds_ago } => format!("first seen {} ago", span(*seconds_ago)),
        Why::HardlyMet { times } => {
            format!("windows met its allocations {times} times, and fewer than {MET_ENOUGH:.0} do not tell of bursts")
        }
        Why::FirstTouched { seconds_ago } => format!("first touched {} ago", span(*seconds_ago)),
        Why::StillLive { survivors, pace } => format!("{}{}", still_live(survivors), growth(pace)),
        Why::Enlarged { live_objects, rises, falls, readings, pace } => {
            let blocks = blocks_are(*live_objects);
            let shrank = if *falls == 0 { "never shrank".to_owned() } else { format!("shrank in {falls}") };
            format!("{blocks} live, which grew in {rises} of {readings} readings and {shrank}{}", growth(pace))
        }
        Why::Stepped { live_objects, steps, pace } => {
            let blocks = blocks_are(*live_objects);
            format!("{blocks} live, enlarged {steps} times by ever more, as what is filled evenly is{}", growth(pace))
        }
        Why::Accumulates { seconds, pace, doubt } => {
            format!("old blocks have accumulated for {}{}, {}", span(*seconds), growth(pace), but(*doubt))
        }
        Why::HoldsMore { grown_bytes, seconds, pace } => {
            let (grown, span) = (units::bytes(*grown_bytes), span(*seconds));
            format!("holds {grown} more than ever before in the last {span}{}", growth(pace))
        }
        Why::Filled { held_bytes, grew_s, flat_s } => {
            format!("grew to {} in {}, and has not for {}", units::bytes(*held_bytes), span(*grew_s), span(*flat_s))
        }
        Why::Holds { held_bytes, seconds } => format!("has held {} for {}", units::bytes(*held_bytes), span(*seconds)),
        Why::HasRisen { from_bytes, to_bytes } => {
            format!("rose from {} to {} of late", units::bytes(*from_bytes), units::bytes(*to_bytes))
        }
        Why::GoesUpAndDown { least_bytes, most_bytes } => {
            format!("goes up and down between {} and {}", units::bytes(*least_bytes), units::bytes(*most_bytes))
        }
        Why::ComesAndGoes { period_s, most_bytes } => {
            format!("comes and goes, every {} or so, up to {}", span(*period_s), units::bytes(*most_bytes))
        }
        Why::HasTouched { bytes, lately_bytes, seconds } => {
            let (all, lately) = (units::bytes(*bytes), units::bytes(*lately_bytes));
            format!("touched {all}, of that {lately} in the last {}", span(*seconds))
        }
        Why::Touches { lately_bytes, seconds, slope_per_s, process_slope_per_s, process_grows } => {
            let (lately, slope) = (units::bytes(*lately_bytes), units::bytes_per_s(*slope_per_s));
            let so = if *process_grows { "and the process grows" } else { "but the process does not grow by it" };
            let process = units::bytes_per_s(*process_slope_per_s);
            format!("touched {lately} in the last {}; {slope}, {so} ({process})", span(*seconds))
        }
        Why::Unreachable { unreachable, live_objects } => lost(unreachable, *live_objects),
        Why::Reachable { live_objects: 1 } => "its one live block can be reached at exit".to_owned(),
        Why::Reachable { live_objects } => {
            format!("all {} live blocks can be reached at exit", units::count(*live_objects))
        }
        Why::FreedAtEnd { before, freed_bytes } => {
            format!("{}; then {} were freed at the end", self::reason(before), units::bytes(*freed_bytes))
        }
    }
}

/// The living part of older blocks.
fn still_live(survivors: &Survivors) -> String {
    let Survivors { youngest_s, oldest_s, live_objects, born_objects, older_objects, older_freed_objects } = survivors;
    let (live, born) = (units::count(*live_objects), units::count(*born_objects));
    let told = format!("{live} of {born} blocks allocated {youngest_s:.0} to {oldest_s:.0} s ago are still live");
    let older = units::count(*older_objects);
    match (*older_objects, *older_freed_objects) {
        (0, _) => told,
        (_, 0) => format!("{told}, and all {older} older ones"),
        (all, freed) => format!("{told}, and {} of {older} older ones", units::count(all.saturating_sub(freed))),
    }
}

/// How fast a site grows, and how much of its process's growth that is.
fn growth(pace: &Pace) -> String {
    let share = match pace.of_process {
        None => String::new(),
        Some(part) if part < 0.01 => ", less than 1 % of what the process grows by".to_owned(),
        Some(part) => format!(", {:.0} % of what the process grows by", part * 100.0),
    };
    format!("; {}{share}", units::bytes_per_s(pace.slope_per_s))
}

/// Why blocks that accumulate may not go on to.
fn but(doubt: Doubt) -> String {
    match doubt {
        Doubt::Stopped { seconds } => format!("but nothing was added in the last {seconds:.0} s"),
        Doubt::SlowsDown { part } => format!("but slows down, to {:.0} % of its former rate", part * 100.0),
        Doubt::TurnsOver { part } => {
            format!("but {:.0} % of its blocks that had become older than half a minute were freed", part * 100.0)
        }
        Doubt::ReplacesOlder => {
            "but as many blocks from before attach were freed, and resident memory does not grow".to_owned()
        }
    }
}

/// The blocks to which nothing pointed at the end.
fn lost(unreachable: &Amount, live_objects: u64) -> String {
    let noun = if live_objects == 1 { "block" } else { "blocks" };
    let verb = if unreachable.objects == 1 { "is" } else { "are" };
    let (lost, of) = (units::count(unreachable.objects), units::count(live_objects));
    format!("{lost} of {of} live {noun} {verb} unreachable at exit ({})", units::bytes(unreachable.bytes))
}

fn blocks_are(objects: u64) -> String {
    match objects {
        1 => "one block is".to_owned(),
        _ => format!("{} blocks are", units::count(objects)),
    }
}

/// A time in whole seconds, or in minutes.
fn span(seconds: f64) -> String {
    if seconds < 60.0 {
        format!("{:.0} s", seconds.max(0.0))
    } else {
        units::duration(Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::verdict::Judgement;

    const PACE: Pace = Pace { slope_per_s: 9933.0, of_process: None };

    #[test]
    fn too_little_time_is_told_with_the_time_that_a_verdict_takes() {
        let told = |why| reason(&why);
        assert_eq!(told(VerdictReason::SeenFor { seconds: 12.0 }), "seen for 12 s; a verdict takes 24 s");
        assert_eq!(
            told(VerdictReason::GrowsSoFar { slope_per_s: 1024.0, seconds: 12.2 }),
            "+1.00 KiB/s in 12 s; whether it is freed again takes 24 s to tell"
        );
        assert_eq!(told(VerdictReason::FirstSeen { seconds_ago: -0.2 }), "first seen 0 s ago");
        assert_eq!(told(VerdictReason::FirstTouched { seconds_ago: 61.0 }), "first touched 1 min 1 s ago");
        assert_eq!(
            told(VerdictReason::HardlyMet { times: 19 }),
            "windows met its allocations 19 times, and fewer than 20 do not tell of bursts"
        );
        assert_eq!(told(VerdictReason::Unjudged), "");
        assert_eq!(told(VerdictReason::NothingLive), "nothing of it is live");
    }

    #[test]
    fn a_suspect_is_told_with_its_survivors_and_its_pace() {
        let survivors = Survivors {
            youngest_s: 8.192,
            oldest_s: 32.768,
            live_objects: 246,
            born_objects: 246,
            older_objects: 0,
            older_freed_objects: 0,
        };
        let told = |survivors, pace| reason(&VerdictReason::StillLive { survivors, pace });
        let young = "246 of 246 blocks allocated 8 to 33 s ago are still live";
        assert_eq!(told(survivors, PACE), format!("{young}; +9.70 KiB/s"));
        let half = Pace { of_process: Some(0.5), ..PACE };
        let with_older = Survivors { older_objects: 1272, ..survivors };
        assert_eq!(
            told(with_older, half),
            format!("{young}, and all 1,272 older ones; +9.70 KiB/s, 50 % of what the process grows by")
        );
        let little = Pace { of_process: Some(0.0007), ..PACE };
        assert_eq!(
            told(survivors, little),
            format!("{young}; +9.70 KiB/s, less than 1 % of what the process grows by")
        );
        let some_freed = Survivors { older_freed_objects: 2, ..with_older };
        assert_eq!(told(some_freed, PACE), format!("{young}, and 1,270 of 1,272 older ones; +9.70 KiB/s"));
    }

    #[test]
    fn a_block_that_is_enlarged_is_told_by_its_readings() {
        let told = |live_objects, falls| {
            reason(&VerdictReason::Enlarged { live_objects, rises: 58, falls, readings: 59, pace: PACE })
        };
        let rises = "live, which grew in 58 of 59 readings and";
        assert_eq!(told(1, 0), format!("one block is {rises} never shrank; +9.70 KiB/s"));
        assert_eq!(told(3000, 2), format!("3,000 blocks are {rises} shrank in 2; +9.70 KiB/s"));
    }

    #[test]
    fn a_buffer_that_is_enlarged_by_steps_is_told_with_their_number() {
        let told = reason(&VerdictReason::Stepped { live_objects: 1, steps: 4, pace: PACE });
        assert_eq!(told, "one block is live, enlarged 4 times by ever more, as what is filled evenly is; +9.70 KiB/s");
    }

    #[test]
    fn sites_of_several_stacks_say_so() {
        let told = |stacks, reason| {
            of_site(&Site { stacks, judgement: Judgement { reason, ..Judgement::default() }, ..Site::default() })
        };
        assert_eq!(told(1, VerdictReason::NothingLive), "nothing of it is live");
        let stacks = "in 1,400 stacks, which differ in the depth of recursion";
        assert_eq!(told(1400, VerdictReason::NothingLive), format!("nothing of it is live; {stacks}"));
        assert_eq!(told(1400, VerdictReason::Unjudged), stacks);
    }

    #[test]
    fn blocks_that_accumulate_are_told_with_what_speaks_for_them() {
        let told = |doubt| reason(&VerdictReason::Accumulates { seconds: 50.0, pace: PACE, doubt });
        let grown = "old blocks have accumulated for 50 s; +9.70 KiB/s, but";
        assert_eq!(told(Doubt::Stopped { seconds: 16.4 }), format!("{grown} nothing was added in the last 16 s"));
        assert_eq!(told(Doubt::SlowsDown { part: 0.4 }), format!("{grown} slows down, to 40 % of its former rate"));
        assert_eq!(
            told(Doubt::TurnsOver { part: 0.75 }),
            format!("{grown} 75 % of its blocks that had become older than half a minute were freed")
        );
        assert_eq!(
            told(Doubt::ReplacesOlder),
            format!("{grown} as many blocks from before attach were freed, and resident memory does not grow")
        );
    }

    #[test]
    fn sites_that_nobody_suspects_are_told_by_their_course() {
        let mib = 1 << 20;
        let cases = [
            (
                VerdictReason::HoldsMore { grown_bytes: mib, seconds: 20.0, pace: PACE },
                "holds 1.00 MiB more than ever before in the last 20 s; +9.70 KiB/s",
            ),
            (
                VerdictReason::Filled { held_bytes: mib, grew_s: 35.0, flat_s: 90.0 },
                "grew to 1.00 MiB in 35 s, and has not for 1 min 30 s",
            ),
            (VerdictReason::Holds { held_bytes: 100, seconds: 10.0 }, "has held 100 B for 10 s"),
            (
                VerdictReason::GoesUpAndDown { least_bytes: 0, most_bytes: mib },
                "goes up and down between 0 B and 1.00 MiB",
            ),
            (VerdictReason::HasRisen { from_bytes: 1000, to_bytes: 2000 }, "rose from 1000 B to 1.95 KiB of late"),
            (
                VerdictReason::ComesAndGoes { period_s: 13.0, most_bytes: mib },
                "comes and goes, every 13 s or so, up to 1.00 MiB",
            ),
        ];
        for (why, told) in cases {
            assert_eq!(reason(&why), told);
        }
    }

    #[test]
    fn pages_are_told_as_touched_and_not_as_held() {
        let once = VerdictReason::HasTouched { bytes: 64 << 20, lately_bytes: 0, seconds: 20.0 };
        assert_eq!(reason(&once), "touched 64.0 MiB, of that 0 B in the last 20 s");
        let touches = |process_slope_per_s, process_grows| {
            reason(&VerdictReason::Touches {
                lately_bytes: 160 << 20,
                seconds: 20.0,
                slope_per_s: 8_388_608.0,
                process_slope_per_s,
                process_grows,
            })
        };
        let again = "touched 160.0 MiB in the last 20 s; +8.00 MiB/s";
        assert_eq!(touches(0.0, false), format!("{again}, but the process does not grow by it (0 B/s)"));
        assert_eq!(touches(1024.0, true), format!("{again}, and the process grows (+1.00 KiB/s)"));
    }

    #[test]
    fn what_is_left_at_the_end_is_told_in_one_and_in_many() {
        let lost = |objects, live_objects| {
            let unreachable = Amount { bytes: objects * 273, objects };
            reason(&VerdictReason::Unreachable { unreachable, live_objects })
        };
        assert_eq!(lost(12, 12), "12 of 12 live blocks are unreachable at exit (3.20 KiB)");
        assert_eq!(lost(1, 12), "1 of 12 live blocks is unreachable at exit (273 B)");
        assert_eq!(lost(1, 1), "1 of 1 live block is unreachable at exit (273 B)");
        let reached = |live_objects| reason(&VerdictReason::Reachable { live_objects });
        assert_eq!(reached(1), "its one live block can be reached at exit");
        assert_eq!(reached(3), "all 3 live blocks can be reached at exit");
        let before = Box::new(VerdictReason::Holds { held_bytes: 100, seconds: 10.0 });
        let freed = VerdictReason::FreedAtEnd { before, freed_bytes: 5 << 19 };
        assert_eq!(reason(&freed), "has held 100 B for 10 s; then 2.50 MiB were freed at the end");
    }
}
