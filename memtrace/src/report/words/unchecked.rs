//! Why something was not checked, as it follows `not checked: `.

use super::{not_seen, units};
use crate::model::{
    unchecked::{Lost, NothingHooked, Unchecked},
    verdict::LONG_ENOUGH,
};

/// Why something was not checked.
#[must_use]
pub fn reason(unchecked: &Unchecked) -> String {
    match unchecked {
        Unchecked::NothingHooked(why) => nothing_hooked(*why),
        Unchecked::NoAllocator => "none of its images defines an allocator that memtrace knows".to_owned(),
        Unchecked::NotSeen(not_seen) => not_seen::not_seen(not_seen),
        Unchecked::OneSided { allocator } => {
            format!("only one side of {allocator} is seen: name its functions by --alloc and --free")
        }
        Unchecked::Failed { error, .. } => error.clone(),
        Unchecked::Tier => "this tier does not record every block; use --tier exact".to_owned(),
        Unchecked::LostBlocks(all) => {
            let all: Vec<String> = all.iter().map(lost).collect();
            format!("what was lost ({}) may have pointed to what is left", all.join(", "))
        }
        Unchecked::TableFull(counter) => lost(counter),
        Unchecked::LostNotices(Lost { name, count }) => format!("{} notices were lost ({name})", units::count(*count)),
        Unchecked::Killed { signal } => format!("killed by signal {signal}"),
        Unchecked::EndNotSeen => "it ended without calling its C library's _exit, or was killed".to_owned(),
        Unchecked::ExecNotSeen => "it became another program without calling its C library's execve".to_owned(),
        Unchecked::Replaced => "it became another program before it could be looked at".to_owned(),
        Unchecked::Stopped => "the run was stopped before its end".to_owned(),
        Unchecked::Daemon => "it goes on as a daemon, in a session of its own".to_owned(),
        Unchecked::Forked { allocator } => {
            format!("it was forked, and {allocator} keeps addresses of its blocks in tables that it has inherited")
        }
        Unchecked::NotFollowed { programs } => {
            format!("{} programs found no room among the targets (processes_full)", units::count(*programs))
        }
        Unchecked::LeftOut { processes } => {
            let count = units::processes(*processes);
            format!("{count} left out of the report, which may not have been looked at")
        }
        Unchecked::TooEarly { traced } => {
            let (traced, needed) = (units::duration(*traced), LONG_ENOUGH.as_secs());
            format!("traced for {traced}, and a leak takes {needed} s at least to be told")
        }
        Unchecked::NoProgram => "the command ran no program whose end could be looked at".to_owned(),
        Unchecked::NoProcess => "there was no process to trace".to_owned(),
    }
}

/// Why nothing could be hooked in a program.
#[must_use]
pub fn nothing_hooked(why: NothingHooked) -> String {
    match why {
        NothingHooked::EndedEarly => "it ended before memtrace could look at it".to_owned(),
        NothingHooked::Is32Bit => "it is a 32-bit program, and memtrace traces 64-bit ones".to_owned(),
        NothingHooked::NoImages => "none of its images is an ELF file of a 64-bit program".to_owned(),
        NothingHooked::Stripped => {
            "it is linked statically and stripped, so its allocator has no name to be found by".to_owned()
        }
        NothingHooked::NoAllocator { images } => {
            format!("none of its {images} images defines an allocator that memtrace knows")
        }
    }
}

fn lost(Lost { name, count }: &Lost) -> String {
    format!("{name} {}", units::count(*count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{not_seen::NotSeen, unchecked::Cause};
    use std::time::Duration;

    #[test]
    fn every_check_that_was_not_made_has_its_sentence() {
        let lost = |name: &str, count| Lost { name: name.to_owned(), count };
        let error = "cannot hold process 7: Operation not permitted";
        let cases = [
            (Unchecked::NoAllocator, "none of its images defines an allocator that memtrace knows"),
            (
                Unchecked::NotSeen(NotSeen::NeverMapped { function: "f".into(), image: "x.so".into() }),
                "`f` of x.so: no program has mapped that image",
            ),
            (Unchecked::Failed { cause: Cause::Refused, error: error.into() }, error),
            (
                Unchecked::OneSided { allocator: "mimalloc".into() },
                "only one side of mimalloc is seen: name its functions by --alloc and --free",
            ),
            (Unchecked::Tier, "this tier does not record every block; use --tier exact"),
            (
                Unchecked::LostBlocks(vec![lost("blocks_full", 1234), lost("sites_full", 1)]),
                "what was lost (blocks_full 1,234, sites_full 1) may have pointed to what is left",
            ),
            (Unchecked::TableFull(lost("sites_full", 1234)), "sites_full 1,234"),
            (Unchecked::LostNotices(lost("events_full", 2)), "2 notices were lost (events_full)"),
            (Unchecked::Killed { signal: 9 }, "killed by signal 9"),
            (Unchecked::EndNotSeen, "it ended without calling its C library's _exit, or was killed"),
            (Unchecked::ExecNotSeen, "it became another program without calling its C library's execve"),
            (Unchecked::Replaced, "it became another program before it could be looked at"),
            (Unchecked::Stopped, "the run was stopped before its end"),
            (Unchecked::Daemon, "it goes on as a daemon, in a session of its own"),
            (
                Unchecked::Forked { allocator: "jemalloc".into() },
                "it was forked, and jemalloc keeps addresses of its blocks in tables that it has inherited",
            ),
            (
                Unchecked::NotFollowed { programs: 1234 },
                "1,234 programs found no room among the targets (processes_full)",
            ),
            (
                Unchecked::LeftOut { processes: 1 },
                "1 process left out of the report, which may not have been looked at",
            ),
            (
                Unchecked::TooEarly { traced: Duration::from_secs(10) },
                "traced for 10.0 s, and a leak takes 24 s at least to be told",
            ),
            (Unchecked::NoProgram, "the command ran no program whose end could be looked at"),
            (Unchecked::NoProcess, "there was no process to trace"),
        ];
        for (unchecked, told) in cases {
            assert_eq!(reason(&unchecked), told);
        }
    }

    #[test]
    fn a_program_without_an_allocator_is_told_with_the_cause() {
        let cases = [
            (NothingHooked::EndedEarly, "it ended before memtrace could look at it"),
            (NothingHooked::Is32Bit, "it is a 32-bit program, and memtrace traces 64-bit ones"),
            (NothingHooked::NoImages, "none of its images is an ELF file of a 64-bit program"),
            (
                NothingHooked::Stripped,
                "it is linked statically and stripped, so its allocator has no name to be found by",
            ),
            (NothingHooked::NoAllocator { images: 3 }, "none of its 3 images defines an allocator that memtrace knows"),
        ];
        for (why, told) in cases {
            assert_eq!(reason(&Unchecked::NothingHooked(why)), told);
        }
    }
}
