//! Amounts that rise by ever larger steps, ever more seldom: a buffer that is enlarged by a part of its size whenever it is full
//! (`std::vector`, `std::string`), or a pool that takes ever larger chunks.
//!
//! Such an amount stands still for longer after each step. Filled evenly, the room that a step has made lasts as many times
//! longer than the room of the step before as it is larger. So it has not stopped before that time is over.

use super::rank::Point;

/// Steps without which nothing is said of how they follow.
const MIN_STEPS: usize = 2;
/// The part of the amount after a step that the step adds at least.
const LEAST_STEP: f64 = 0.15;
/// How much longer than expected the amount may stand still.
const PATIENCE: f64 = 1.5;

/// Room that is still being filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filling {
    /// How many steps were seen.
    pub steps: usize,
    /// How fast the room of the last step but one was filled, a second.
    pub filled_per_s: f64,
}

/// How fast room is filled that was enlarged by steps, if it still is at `now_s`; `None` where a step is small, or where it
/// has stood still for too long.
#[must_use]
pub fn filling(amount: &[Point], now_s: f64) -> Option<Filling> {
    // In the first rise it came to be.
    let rises = amount.windows(2).filter(|pair| pair[0].value > 0.0 && pair[1].value > pair[0].value);
    let step = |pair: &[Point]| {
        let added = pair[1].value - pair[0].value;
        (added >= LEAST_STEP * pair[1].value).then(|| Point { at: pair[1].at, value: added })
    };
    let steps: Vec<Point> = rises.map(step).collect::<Option<_>>()?;
    let [.., before, last] = steps[..] else { return None };
    let took_s = last.at - before.at;
    let lasts_s = took_s * last.value / before.value;
    (steps.len() >= MIN_STEPS && now_s - last.at <= PATIENCE * lasts_s)
        .then(|| Filling { steps: steps.len(), filled_per_s: before.value / took_s })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(sizes: &[(f64, f64)], now_s: f64) -> Option<Filling> {
        let points: Vec<Point> = sizes.iter().map(|(at, value)| Point { at: *at, value: *value }).collect();
        filling(&points, now_s)
    }

    const DOUBLING: [(f64, f64); 5] = [(0.0, 0.0), (4.0, 4.0), (8.0, 8.0), (16.0, 16.0), (32.0, 32.0)];

    #[test]
    fn what_doubles_is_filled_until_its_room_has_lasted_for_half_as_long_again() {
        assert_eq!(told(&DOUBLING, 64.0), Some(Filling { steps: 3, filled_per_s: 0.5 }));
        assert_eq!(told(&DOUBLING, 81.0), None);
        assert_eq!(told(&DOUBLING[..4], 60.0), None);
    }

    #[test]
    fn small_steps_and_a_single_one_say_nothing() {
        assert_eq!(told(&[(1.0, 10.0), (2.0, 11.0), (3.0, 12.0)], 3.0), None);
        assert_eq!(told(&[(0.0, 0.0), (1.0, 10.0), (20.0, 20.0)], 21.0), None);
    }
}
