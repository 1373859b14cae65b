//! Thresholds of a process's memory: when one is crossed, and when it is worth saying so again.

use std::{fmt, time::Duration};

use bytesize::ByteSize;

/// The part of a threshold below which a process is out of it again, so that one that hovers around it is told once.
const FAR_BELOW: f64 = 0.9;
/// How many times what it had when it was told last a process must have, to be told again without having been out of it.
const GROWN: u64 = 2;

/// A threshold that a process's memory should not reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// An amount of resident memory, in bytes.
    Rss(u64),
    /// Resident memory of such a part of what its cgroup may have or, where that has no limit, the machine has; from 0 to 1.
    Share(f64),
    /// Growing for good by so many bytes a second.
    Slope(f64),
}

/// The figures of a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observed {
    /// Its resident memory.
    pub rss_bytes: u64,
    /// The limit of its cgroup, where there is one.
    pub limit_bytes: Option<u64>,
    /// The memory of the machine.
    pub machine_bytes: u64,
    /// How fast its resident memory grows, where it is increasing.
    pub slope_bytes_per_s: Option<f64>,
}

impl Threshold {
    /// Reads `512MiB`, `80%` or `slope:1MiB/min`.
    ///
    /// # Errors
    /// The problem with it, and the text to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        const HOW: &str = "write 512MiB, 80% or slope:1MiB/min";
        let size = |text: &str| match text.trim().parse::<ByteSize>() {
            Ok(ByteSize(0)) => Err(format!("must be more than nothing; {HOW}")),
            Ok(size) => Ok(size.0),
            Err(error) => Err(format!("{error}; {HOW}")),
        };
        if let Some(rate) = text.strip_prefix("slope:") {
            let (amount, unit) = rate.split_once('/').ok_or_else(|| format!("a slope needs a unit of time; {HOW}"))?;
            let seconds = match unit.trim() {
                "s" | "sec" => 1.0,
                "min" => 60.0,
                "h" => 3600.0,
                other => return Err(format!("`{other}` is none of s, min and h; {HOW}")),
            };
            return Ok(Self::Slope(size(amount)? as f64 / seconds));
        }
        let Some(percent) = text.strip_suffix('%') else { return size(text).map(Self::Rss) };
        match percent.trim().parse::<f64>() {
            Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(Self::Share(percent / 100.0)),
            Ok(_) => Err("must be more than 0% and not more than 100%".into()),
            Err(error) => Err(format!("{error}; {HOW}")),
        }
    }

    /// Whether a process has reached it.
    #[must_use]
    pub fn is_reached(&self, observed: &Observed) -> bool {
        self.part_reached(observed) >= 1.0
    }

    /// Whether a process is so far below it that reaching it again is news.
    #[must_use]
    pub fn is_far(&self, observed: &Observed) -> bool {
        self.part_reached(observed) < FAR_BELOW
    }

    /// The part of it that a process has reached: 1 is all.
    fn part_reached(&self, observed: &Observed) -> f64 {
        let rss = observed.rss_bytes as f64;
        match *self {
            Self::Rss(bytes) => rss / bytes as f64,
            Self::Share(part) => rss / (observed.limit_bytes.unwrap_or(observed.machine_bytes) as f64 * part),
            Self::Slope(bytes_per_s) => observed.slope_bytes_per_s.unwrap_or(0.0) / bytes_per_s,
        }
    }
}

/// The threshold as it is written on the command line.
impl fmt::Display for Threshold {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded and not negative")]
            ByteSize(bytes.round() as u64).display().iec()
        };
        match *self {
            Self::Rss(bytes) => write!(out, "{}", size(bytes as f64)),
            Self::Share(part) => write!(out, "{}%", (part * 10_000.0).round() / 100.0),
            Self::Slope(bytes_per_s) => write!(out, "slope:{}/min", size(bytes_per_s * 60.0)),
        }
    }
}

/// Which of its thresholds a process is to be told for, so that each is told once and not at every look.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// When it was told last.
    told: Option<Duration>,
    /// For each threshold that it was told for, its resident memory then; nothing where that would be news (again).
    old: Vec<Option<u64>>,
}

impl Gate {
    /// The threshold that the process is to be told for now, `at` after the start: one that it has reached and, where it was told
    /// for that before, it has been a tenth below it since, or has twice the memory. Not before `cooldown` is over since it
    /// was told for any.
    pub fn look<'a>(
        &mut self,
        thresholds: &'a [Threshold],
        observed: &Observed,
        at: Duration,
        cooldown: Duration,
    ) -> Option<&'a Threshold> {
        self.old.resize(thresholds.len(), None);
        for (threshold, old) in thresholds.iter().zip(&mut self.old) {
            let has_grown = |told: u64| observed.rss_bytes >= told.saturating_mul(GROWN);
            *old = old.filter(|told| !threshold.is_far(observed) && !has_grown(*told));
        }
        if self.told.is_some_and(|told| at.saturating_sub(told) < cooldown) {
            return None;
        }
        let is_news = |(threshold, old): &(&Threshold, &Option<u64>)| old.is_none() && threshold.is_reached(observed);
        thresholds.iter().zip(&self.old).find(is_news).map(|(threshold, _)| threshold)
    }

    /// It was told, for all that it has reached.
    pub fn tell(&mut self, thresholds: &[Threshold], observed: &Observed, at: Duration) {
        self.told = Some(at);
        for (threshold, old) in thresholds.iter().zip(&mut self.old) {
            if threshold.is_reached(observed) {
                *old = Some(observed.rss_bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn observed(rss_mib: u64) -> Observed {
        Observed { rss_bytes: rss_mib * MIB, limit_bytes: None, machine_bytes: 1000 * MIB, slope_bytes_per_s: None }
    }

    #[test]
    fn thresholds_are_read_as_they_are_written() {
        for text in ["512.0 MiB", "80%", "12.5%", "slope:1.0 MiB/min"] {
            assert_eq!(Threshold::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Threshold::parse("512MiB"), Ok(Threshold::Rss(512 * MIB)));
        assert_eq!(Threshold::parse("slope:60KiB/min"), Ok(Threshold::Slope(1024.0)));
        assert_eq!(Threshold::parse("slope:1KiB/s"), Ok(Threshold::Slope(1024.0)));
        assert_eq!(Threshold::parse("slope:3600KiB/h"), Ok(Threshold::Slope(1024.0)));
    }

    #[test]
    fn nonsense_is_refused_with_what_to_write() {
        for text in [
            "",
            "much",
            "0",
            "-5MiB",
            "%",
            "0%",
            "101%",
            "x%",
            "slope:",
            "slope:1MiB",
            "slope:1MiB/day",
            "slope:0/s",
            "NaN%",
        ] {
            assert!(Threshold::parse(text).is_err(), "{text}");
        }
        assert!(Threshold::parse("much").unwrap_err().contains("write 512MiB, 80% or slope:1MiB/min"));
    }

    #[test]
    fn a_share_is_of_the_group_s_limit_or_of_the_machine() {
        let share = Threshold::Share(0.8);
        assert!(!share.is_reached(&observed(799)) && share.is_reached(&observed(800)));
        let limited = Observed { limit_bytes: Some(100 * MIB), ..observed(80) };
        assert!(share.is_reached(&limited) && !share.is_reached(&observed(80)));
    }

    #[test]
    fn a_slope_is_reached_by_what_is_increasing() {
        let slope = Threshold::parse("slope:60MiB/min").unwrap();
        let growing = |mib_per_s: f64| Observed { slope_bytes_per_s: Some(mib_per_s * MIB as f64), ..observed(1) };
        assert!(
            slope.is_reached(&growing(1.1)) && !slope.is_reached(&growing(0.95)) && !slope.is_reached(&observed(1))
        );
        assert!(!slope.is_far(&growing(0.95)) && slope.is_far(&growing(0.5)) && slope.is_far(&observed(1)));
    }

    /// When a process with so much memory at each second is told.
    fn told(cooldown: u64, rss_mib: &[u64]) -> Vec<usize> {
        let mut gate = Gate::default();
        let mut told = Vec::new();
        for (second, rss_mib) in rss_mib.iter().enumerate() {
            let (at, observed) = (Duration::from_secs(second as u64), observed(*rss_mib));
            let thresholds = [Threshold::Rss(100 * MIB)];
            if gate.look(&thresholds, &observed, at, Duration::from_secs(cooldown)).is_some() {
                gate.tell(&thresholds, &observed, at);
                told.push(second);
            }
        }
        told
    }

    #[test]
    fn one_threshold_does_not_silence_another() {
        let (rss, slope) = (Threshold::Rss(100 * MIB), Threshold::Slope(MIB as f64));
        let (mut gate, thresholds) = (Gate::default(), [rss, slope]);
        let mut look = |second, observed: &Observed| {
            let (at, cooldown) = (Duration::from_secs(second), Duration::from_secs(5));
            let news = gate.look(&thresholds, observed, at, cooldown).copied();
            if news.is_some() {
                gate.tell(&thresholds, observed, at);
            }
            news
        };
        let leaking = |mib| Observed { slope_bytes_per_s: Some(2.0 * MIB as f64), ..observed(mib) };
        assert_eq!(look(0, &observed(110)), Some(rss));
        assert_eq!(look(1, &leaking(112)), None, "during the cooldown");
        assert_eq!(look(6, &leaking(120)), Some(slope));
        assert_eq!(look(20, &leaking(140)), None);
        // It has stopped, and begins again.
        assert_eq!(look(30, &observed(150)), None);
        assert_eq!(look(31, &leaking(152)), Some(slope));
    }

    #[test]
    fn what_hovers_around_a_threshold_is_told_once() {
        assert_eq!(told(0, &[50, 101, 99, 101, 95, 103, 110, 150]), [1]);
    }

    #[test]
    fn what_has_been_far_below_or_has_doubled_is_told_again_after_the_cooldown() {
        assert_eq!(told(0, &[50, 101, 89, 101, 101]), [1, 3]);
        assert_eq!(told(0, &[101, 150, 202, 300, 404]), [0, 2, 4]);
        assert_eq!(told(3, &[101, 50, 101, 101, 101]), [0, 3]);
    }
}
