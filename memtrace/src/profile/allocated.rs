//! When there were allocations with one stack, and whether the images in which it was placed were there all the time.

use std::ops::RangeInclusive;

use super::{reading::Placed, stack::PlacedStack};

/// When there were allocations with one stack, by how often the code of the program had changed.
pub(super) struct Allocated {
    /// From the first one on.
    pub(super) ever: RangeInclusive<u64>,
    /// Since the last reading; nothing where there was none.
    pub(super) lately: Option<RangeInclusive<u64>>,
}

impl Allocated {
    /// Of a site that was `opened` then, and that had and has allocated so many objects. Everything that was counted now and not
    /// at the last reading was allocated `since`: from before that one counted until after this one has.
    pub(super) fn by((before, objects): (u64, u64), opened: u64, since: RangeInclusive<u64>) -> Self {
        let (from, now) = since.into_inner();
        Self {
            ever: opened..=if objects > 1 { now } else { opened },
            lately: (before < objects).then(|| from.max(opened)..=now),
        }
    }
}

/// Checks whether the images in which a stack was placed have gone on allocating with it. Where others may have been in their
/// place meanwhile, the stack is of none of them.
pub(super) fn check<E>(
    stack: &mut PlacedStack,
    contests: u64,
    mut place: impl FnMut(&RangeInclusive<u64>) -> Result<Option<Placed>, E>,
    lately: &RangeInclusive<u64>,
) -> Result<(), E> {
    match place(lately)? {
        Some(Placed::At { stack: now, .. }) if now.places == stack.places => {}
        Some(_) => {
            // No image was there all the time.
            if let Some(Placed::At { stack: unsure, .. }) = place(&(0..=u64::MAX))? {
                *stack = PlacedStack { settled: contests, ..unsure };
            }
        }
        None => stack.settled = contests,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{
        reading::{Asked, Counted, Reading, Time},
        subject::SubjectProfile,
    };
    use memtrace_common::{
        ids::{SiteIndex, StackId},
        wire::site::{Count, Site},
    };
    use std::time::Duration;

    /// Reads a site with so many objects; its program had changed its code so often `before` that was counted and `after`.
    /// Returns when allocations are said to have been.
    fn read(profile: &mut SubjectProfile, objects: u64, before: u64, after: u64) -> Vec<RangeInclusive<u64>> {
        let mut site = Site { stack: StackId(1), opened: 2, ..Site::default() };
        site.generations[0].alloc = Count { bytes: 500 * objects, objects };
        let counted = Counted { sites: vec![(SiteIndex(1), site)], code_changes: before, ..Counted::default() };
        let time = Time { elapsed: Duration::from_secs(after), generation: 0, next: 0 };
        let reading = Reading { code_changes: after, contests: 1, ..Reading::new(time, &counted) };
        let mut asked = Vec::new();
        let read = profile.read(&reading, |Asked { during, .. }| {
            asked.push(during);
            let placed = Placed::At { stack: PlacedStack::default(), is_cut: false };
            Ok::<_, std::convert::Infallible>((asked.len() == 1).then_some(placed))
        });
        read.unwrap();
        asked
    }

    #[test]
    fn what_comes_while_others_are_counted_is_of_the_moment_before() {
        let mut profile = SubjectProfile::default();
        let first = read(&mut profile, 1, 2, 6);
        assert_eq!(first.first(), Some(&(2..=2)));
        // Allocated after the first was counted, at any moment from then on: not from the sixth change on alone.
        assert_eq!(read(&mut profile, 2, 8, 9), [2..=9]);
        assert_eq!(read(&mut profile, 2, 10, 12), []);
        assert_eq!(read(&mut profile, 3, 14, 14), [10..=14]);
    }
}
