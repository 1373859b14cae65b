//! The suspects that a gate lets pass.

use crate::model::{outcome::Tally, report::Site};

/// The suspects that were let pass; nothing where none was.
#[must_use]
pub fn passed(tally: &Tally) -> Option<String> {
    let told = [(tally.suppressed, "suppressed"), (tally.in_baseline, "in the baseline")];
    let told: Vec<String> =
        told.iter().filter(|(count, _)| *count > 0).map(|(count, how)| format!("{count} {how}")).collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// The marks of a suspect that is let pass, for its row.
pub fn marks(site: &Site) -> impl Iterator<Item = String> {
    let suppressed = site.suppressed_by.as_ref().map(|pattern| format!("suppressed by {pattern}"));
    suppressed.into_iter().chain(site.in_baseline.then(|| "in the baseline".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspects_that_pass_are_told_by_their_numbers() {
        let told = |suppressed, in_baseline| passed(&Tally { remaining: 9, suppressed, in_baseline });
        assert_eq!(told(0, 0), None);
        assert_eq!(told(2, 1).as_deref(), Some("2 suppressed, 1 in the baseline"));
        let site = Site { suppressed_by: Some("leak:f".into()), in_baseline: true, ..Site::default() };
        assert_eq!(marks(&site).collect::<Vec<_>>(), ["suppressed by leak:f", "in the baseline"]);
    }
}
