//! Allocators of which a process is seen to call one side only: what it allocates, or what it frees, goes through functions
//! that are not hooked, whatever their names.

use std::time::Duration;

use memtrace_common::{steps::call::CallRoles, wire::process::Sides};

use crate::{
    model::{
        figures::Allocator,
        finding::{OneSided, Side},
    },
    profile::reading::AllSides,
};

/// So many events of one side are no accident.
const LEAST_EVENTS: u64 = 1000;
/// A program that was traced for less may be freeing what it had before attach.
const LEAST_TRACED: Duration = Duration::from_secs(10);

/// Those of the `allocators` of which only one side is seen, in a process that was traced for so long.
pub(super) fn one_sided(allocators: &[Allocator], sides: &AllSides, traced: Duration) -> Vec<OneSided> {
    // The last stands for several together.
    let told = sides.iter().take(CallRoles::ALLOCATORS - 1).enumerate();
    let found = told.filter_map(|(number, sides)| {
        let (seen, events) = only_side(sides, traced)?;
        let allocator = allocators.iter().find(|allocator| allocator.number as usize == number)?;
        let Allocator { name, image, .. } = allocator.clone();
        Some(OneSided { allocator: name, image, seen, events })
    });
    found.collect()
}

/// The side that alone is seen, and how often.
fn only_side(sides: &Sides, traced: Duration) -> Option<(Side, u64)> {
    match *sides {
        Sides { allocations: 0, frees, .. } if frees >= LEAST_EVENTS && traced >= LEAST_TRACED => {
            Some((Side::Frees, frees))
        }
        // That nothing is freed is no sign: programs do so. That an address is handed out twice is one.
        Sides { frees: 0, handed_out_again, .. } if handed_out_again >= LEAST_EVENTS => {
            Some((Side::Allocations, handed_out_again))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    fn sides(allocations: u64, frees: u64, handed_out_again: u64) -> Sides {
        Sides { allocations, frees, handed_out_again }
    }

    #[test]
    fn only_many_events_of_one_side_are_told() {
        assert_eq!(only_side(&sides(0, 1000, 0), LONG), Some((Side::Frees, 1000)));
        assert_eq!(only_side(&sides(0, 999, 0), LONG), None);
        assert_eq!(only_side(&sides(1, 1000, 0), LONG), None);
        // Blocks from before attach, perhaps.
        assert_eq!(only_side(&sides(0, 1000, 0), Duration::from_secs(9)), None);
        assert_eq!(only_side(&sides(3, 0, 1000), Duration::ZERO), Some((Side::Allocations, 1000)));
        // A program that frees nothing.
        assert_eq!(only_side(&sides(3, 0, 0), LONG), None);
        assert_eq!(only_side(&sides(3, 1, 1000), LONG), None);
    }

    #[test]
    fn allocators_are_known_by_their_numbers_but_for_those_that_share_one() {
        let allocator =
            |number, name: &str| Allocator { name: name.into(), number, image: "/a".into(), functions: Vec::new() };
        let mut all = AllSides::default();
        all[2] = sides(0, 5000, 0);
        all[CallRoles::ALLOCATORS - 1] = sides(0, 5000, 0);
        let allocators = [allocator(0, "glibc"), allocator(2, "mimalloc"), allocator(15, "other")];
        let found = one_sided(&allocators, &all, LONG);
        assert_eq!(
            found.iter().map(|found| (found.allocator.as_str(), found.events)).collect::<Vec<_>>(),
            [("mimalloc", 5000)]
        );
    }
}
