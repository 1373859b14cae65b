// A HashMap of visits by visitor and time is asked about the last minutes only, but nothing is ever removed. 60 a
// second.
// leak: note_visit
// half: measured
mod pace;

use std::collections::HashMap;

struct Visit {
    page: String,
    seconds: u64,
}

#[inline(never)]
fn note_visit(visits: &mut HashMap<String, Visit>, visitor: u64, time: u64) {
    let visit = Visit { page: "/a/page/of/some/length".repeat(1 + visitor as usize % 5), seconds: time };
    visits.insert(format!("visitor-{visitor:010}-{time:012}"), visit);
}

#[inline(never)]
fn recent(visits: &HashMap<String, Visit>, time: u64) -> usize {
    visits.values().filter(|visit| visit.seconds + 6000 > time).map(|visit| visit.page.len()).sum()
}

fn main() {
    pace::begin();
    let mut visits = HashMap::new();
    let mut sum = 0;
    for time in 0.. {
        note_visit(&mut visits, pace::below(1000), time);
        if time % 100 == 0 {
            sum += recent(&visits, time);
        }
        pace::rest(if sum == 1 { 17 } else { 16 });
    }
}
