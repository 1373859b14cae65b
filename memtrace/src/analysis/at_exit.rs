//! The look at a program's end: blocks that nothing points to any more are leaks, whatever they did before; those
//! that can still be reached are what it needed to the end.

use crate::model::{
    survival::Amount,
    verdict::{Judgement, Verdict},
    verdict_reason::VerdictReason,
};

/// How sure it is that a block is a leak to which nothing points: somebody may keep its address in another form.
const SURE: f64 = 0.99;

/// The verdict on a site of whose blocks `live` were live at exit, and `unreachable` of them could not be reached. Where all could
/// be, what its growth has led to stands.
#[must_use]
pub fn judge(by_growth: Judgement, live: Amount, unreachable: Amount) -> Judgement {
    if unreachable.objects > 0 {
        let reason = VerdictReason::Unreachable { unreachable, live_objects: live.objects };
        return Judgement { verdict: Verdict::LeakSuspect, confidence: SURE, reason };
    }
    if by_growth.verdict != Verdict::TooEarly || live.objects == 0 {
        return by_growth;
    }
    let reason = VerdictReason::Reachable { live_objects: live.objects };
    Judgement { verdict: Verdict::Stable, confidence: 0.9, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any reason that stands as it is.
    const BY_GROWTH: VerdictReason = VerdictReason::NothingLive;

    fn judged(verdict: Verdict, live: u64, unreachable: u64) -> Judgement {
        let amount = |objects| Amount { bytes: objects * 273, objects };
        let by_growth = Judgement { verdict, confidence: 0.5, reason: BY_GROWTH };
        judge(by_growth, amount(live), amount(unreachable))
    }

    #[test]
    fn what_cannot_be_reached_is_a_leak_whatever_it_did_before() {
        for before in [Verdict::TooEarly, Verdict::Stable, Verdict::Plateau, Verdict::Growing, Verdict::LeakSuspect] {
            let judgement = judged(before, 12, 12);
            assert_eq!(judgement.verdict, Verdict::LeakSuspect);
            let unreachable = Amount { bytes: 12 * 273, objects: 12 };
            assert_eq!(judgement.reason, VerdictReason::Unreachable { unreachable, live_objects: 12 });
        }
    }

    #[test]
    fn what_can_be_reached_is_no_suspect_unless_it_grew() {
        assert_eq!(judged(Verdict::TooEarly, 3, 0).verdict, Verdict::Stable);
        assert_eq!(judged(Verdict::TooEarly, 3, 0).reason, VerdictReason::Reachable { live_objects: 3 });
        assert_eq!(judged(Verdict::LeakSuspect, 3, 0).reason, BY_GROWTH);
        assert_eq!(judged(Verdict::TooEarly, 0, 0).reason, BY_GROWTH);
    }
}
