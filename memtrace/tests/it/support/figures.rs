//! The figures of a report, against those that a program tells of itself.

use serde_json::Value;

/// The figures that a truth and a report share.
pub(crate) const FIGURES: [&str; 6] =
    ["alloc_bytes", "alloc_objects", "freed_bytes", "freed_objects", "live_bytes", "live_objects"];

/// The one process of a report.
pub(crate) fn process(report: &Value) -> &Value {
    let processes = report["processes"].as_array().unwrap();
    assert_eq!(processes.len(), 1);
    &processes[0]
}

/// The sums of a figure over the sites whose allocation's caller is `function`.
pub(crate) fn sum_at(process: &Value, function: &str, figure: &str) -> u64 {
    sites_at(process, function).into_iter().map(|site| site[figure].as_u64().unwrap()).sum()
}

/// The sites whose allocation's caller is `function`.
pub(crate) fn sites_at<'a>(process: &'a Value, function: &str) -> Vec<&'a Value> {
    let sites = process["sites"].as_array().unwrap();
    sites.iter().filter(|site| site["frames"][0]["function"] == function).collect()
}

/// The causes of loss that a process's report counts, with their counts.
pub(crate) fn losses(process: &Value) -> Vec<(String, u64)> {
    let health = process["health"].as_object().unwrap();
    let counts = health.iter().map(|(name, count)| (name.clone(), count.as_u64().unwrap()));
    counts.filter(|(name, count)| name != "unmatched_frees" && !name.starts_with("unwind_") && *count > 0).collect()
}

/// Asserts that what a report says of the program `truth` is its truth, by site and, with `total`, in total.
pub(crate) fn assert_truth(report: &Value, truth: &Value, total: bool) {
    assert_truth_of(process(report), truth, total);
}

/// The same of one process of several.
pub(crate) fn assert_truth_of(process: &Value, truth: &Value, total: bool) {
    assert_eq!(losses(process), [], "something was lost");
    let of_sites = truth.as_object().unwrap().iter().filter(|(_, counts)| counts.is_object());
    for (name, counts) in of_sites {
        for figure in FIGURES {
            let expected = counts[figure].as_u64().unwrap();
            if name != "total" {
                assert_eq!(sum_at(process, name, figure), expected, "{figure} of {name}");
            } else if total {
                assert_eq!(process[figure].as_u64().unwrap(), expected, "{figure} in total");
            }
        }
    }
    assert_sums(process);
}

/// Asserts what holds for every report: sites sum up to their process, and live is allocated minus freed.
pub(crate) fn assert_sums(process: &Value) {
    for figure in FIGURES {
        let sum: u64 = process["sites"].as_array().unwrap().iter().map(|site| site[figure].as_u64().unwrap()).sum();
        assert_eq!(process[figure].as_u64().unwrap(), sum, "{figure} is not the sum over sites");
    }
    for of in process["sites"].as_array().unwrap().iter().chain([process]) {
        for what in ["bytes", "objects"] {
            let figure = |name: &str| of[format!("{name}_{what}")].as_u64().unwrap();
            assert_eq!(figure("live"), figure("alloc") - figure("freed"));
        }
    }
    // Where it is counted, what lives is told by age as well, to the block.
    for site in process["sites"].as_array().unwrap().iter().filter(|site| site["interval_95"].is_null()) {
        let Some(generations) = site["survival"]["generations"].as_array() else { continue };
        for what in ["live_bytes", "live_objects"] {
            let apart: u64 = generations.iter().map(|generation| generation[what].as_u64().unwrap()).sum();
            let older = site["survival"][format!("older_{what}")].as_u64().unwrap();
            assert_eq!(site[what], apart + older, "{site:#}");
        }
    }
}

/// How often the truth lay within the interval, and how far estimates were off.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) covered: u32,
    pub(crate) of: u32,
    pub(crate) estimates: f64,
    pub(crate) truths: f64,
}

impl Tally {
    pub(crate) fn add(&mut self, estimate: u64, interval: &Value, truth: u64) {
        let low = interval[0].as_u64().unwrap();
        // Null where too few windows have met it.
        let high = if interval[1].is_null() { u64::MAX } else { interval[1].as_u64().unwrap() };
        assert!(low <= estimate && estimate <= high, "{estimate} in {interval}");
        self.covered += u32::from(low <= truth && truth <= high);
        self.of += 1;
        self.estimates += estimate as f64;
        self.truths += truth as f64;
    }

    pub(crate) fn coverage(&self) -> f64 {
        f64::from(self.covered) / f64::from(self.of)
    }
}
