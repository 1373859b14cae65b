//! What a program leaves behind when it ends: blocks that nothing points to any more are leaks, whatever they did before; those
//! that can still be reached are what it needed to the end.

use std::time::Duration;

use super::{
    survival::Amount,
    units,
    unseen::Unchecked,
    verdict::{Judgement, Verdict},
};

/// How sure it is that a block is a leak to which nothing points: somebody may keep its address in another form.
const SURE: f64 = 0.99;

/// What was looked at when a program was about to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtExit {
    /// Its memory.
    Checked(Checked),
    /// Nothing.
    Unchecked(Unchecked),
}

/// What came of a look at a program's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Live blocks.
    pub live: Amount,
    /// Those of them that nothing points to.
    pub unreachable: Amount,
    /// How much memory was read, in bytes.
    pub read_bytes: u64,
    /// For how long the program was held.
    pub held: Duration,
}

/// The verdict on a site of whose blocks `live` were live at exit, and `unreachable` of them could not be reached. Where all could
/// be, what its growth has led to stands.
#[must_use]
pub fn judge(by_growth: Judgement, live: Amount, unreachable: Amount) -> Judgement {
    if unreachable.objects > 0 {
        let (lost, of) = (units::count(unreachable.objects), units::count(live.objects));
        let (noun, verb) =
            (if live.objects == 1 { "block" } else { "blocks" }, if unreachable.objects == 1 { "is" } else { "are" });
        let reason =
            format!("{lost} of {of} live {noun} {verb} unreachable at exit ({})", units::bytes(unreachable.bytes));
        return Judgement { verdict: Verdict::LeakSuspect, confidence: SURE, reason };
    }
    if by_growth.verdict != Verdict::TooEarly || live.objects == 0 {
        return by_growth;
    }
    let reason = match live.objects {
        1 => "its one live block can be reached at exit".to_owned(),
        all => format!("all {} live blocks can be reached at exit", units::count(all)),
    };
    Judgement { verdict: Verdict::Stable, confidence: 0.9, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(verdict: Verdict, live: u64, unreachable: u64) -> Judgement {
        let amount = |objects| Amount { bytes: objects * 273, objects };
        let by_growth = Judgement { verdict, confidence: 0.5, reason: "by growth".into() };
        judge(by_growth, amount(live), amount(unreachable))
    }

    #[test]
    fn what_cannot_be_reached_is_a_leak_whatever_it_did_before() {
        for before in [Verdict::TooEarly, Verdict::Stable, Verdict::Plateau, Verdict::Growing, Verdict::LeakSuspect] {
            let judgement = judged(before, 12, 12);
            assert_eq!(judgement.verdict, Verdict::LeakSuspect);
            assert_eq!(judgement.reason, "12 of 12 live blocks are unreachable at exit (3.20 KiB)");
        }
        assert_eq!(judged(Verdict::Stable, 1, 1).reason, "1 of 1 live block is unreachable at exit (273 B)");
    }

    #[test]
    fn what_can_be_reached_is_no_suspect_unless_it_grew() {
        assert_eq!(judged(Verdict::TooEarly, 3, 0).verdict, Verdict::Stable);
        assert_eq!(judged(Verdict::TooEarly, 3, 0).reason, "all 3 live blocks can be reached at exit");
        assert_eq!(judged(Verdict::LeakSuspect, 3, 0).reason, "by growth");
        assert_eq!(judged(Verdict::TooEarly, 0, 0).reason, "by growth");
    }
}
