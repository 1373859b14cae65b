//! A figure over time in one word.

use std::time::Duration;

/// How many characters wide.
const WIDTH: usize = 24;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The series as bars from its least figure to its greatest, evenly in time, at most 24 of them; the highest figure of each piece of
/// time, so that no peak is lost. Empty for fewer than two points, a line at the bottom where the figure stays the same.
#[must_use]
pub(super) fn render(series: &[(Duration, u64)]) -> String {
    let (Some((start, _)), Some((end, _))) = (series.first(), series.last()) else { return String::new() };
    let span = end.saturating_sub(*start).as_secs_f64();
    if span <= 0.0 {
        return String::new();
    }
    let width = WIDTH.min(series.len());
    let mut highest: Vec<Option<u64>> = vec![None; width];
    for (at, figure) in series {
        let part = at.saturating_sub(*start).as_secs_f64() / span;
        let column = scaled(part, width);
        highest[column] = highest[column].max(Some(*figure));
    }
    let least = highest.iter().flatten().min().copied().unwrap_or(0);
    let range = highest.iter().flatten().max().copied().unwrap_or(0) - least;
    let bar = |figure: u64| {
        let part = if range == 0 { 0.0 } else { (figure - least) as f64 / range as f64 };
        BARS[scaled(part, BARS.len())]
    };
    let mut last = BARS[0];
    let bars = highest.iter().map(|figure| {
        // A piece without a reading looks as the one before it.
        last = figure.map_or(last, bar);
        last
    });
    bars.collect()
}

/// Which of `count` equal pieces of 0 to 1 a part lies in.
fn scaled(part: f64, count: usize) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to the small count")]
    let piece = (part * count as f64) as usize;
    piece.min(count - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(figures: impl IntoIterator<Item = u64>) -> String {
        let series: Vec<_> =
            figures.into_iter().enumerate().map(|(at, figure)| (Duration::from_secs(at as u64), figure)).collect();
        render(&series)
    }

    #[test]
    fn bars_run_from_the_least_to_the_greatest() {
        assert_eq!(rendered([100, 200, 300, 400, 500, 600, 700, 800]), "▁▂▃▄▅▆▇█");
        assert_eq!(rendered([5, 5, 5]), "▁▁▁");
        assert_eq!(rendered([8, 1]), "█▁");
    }

    #[test]
    fn a_long_series_is_one_word_and_no_peak_is_lost() {
        let bars = rendered((0..1000).map(|at| if at == 500 { 1000 } else { 1 }));
        assert_eq!((bars.chars().count(), bars.matches('█').count()), (WIDTH, 1));
    }

    #[test]
    fn nothing_has_no_shape() {
        assert_eq!((rendered([]), rendered([1])), (String::new(), String::new()));
    }
}
