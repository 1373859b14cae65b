// Leases that last ten seconds and are renewed by half of their holders: from none to a steady state within 30 seconds.
// 12 a second. Bound: some 300 leases.
// innocent
// half: tuned
mod pace;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

struct Lease {
    until: Instant,
    holder: String,
}

const TERM: Duration = Duration::from_secs(10);

#[inline(never)]
fn grant(leases: &mut HashMap<u64, Lease>, id: u64) {
    let holder = format!("holder-{id:0>width$}", width = 100 + pace::below(400) as usize);
    leases.insert(id, Lease { until: Instant::now() + TERM, holder });
}

#[inline(never)]
fn expire(leases: &mut HashMap<u64, Lease>) {
    let now = Instant::now();
    leases.retain(|_, lease| {
        // Nobody renews twice.
        if lease.until < now && lease.holder.starts_with("holder") && pace::below(2) == 0 {
            lease.holder.replace_range(..6, "second");
            lease.until = now + TERM;
        }
        lease.until >= now
    });
}

fn main() {
    pace::begin();
    let mut leases = HashMap::new();
    for id in 0.. {
        grant(&mut leases, id);
        expire(&mut leases);
        pace::rest(83);
    }
}
