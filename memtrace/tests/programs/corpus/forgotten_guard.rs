// A guard must not be dropped where a job was cancelled, and so it is forgotten, with what it holds: 1 in 8 of 60 a
// second.
// leak: lock_range
// half: measured
mod pace;

struct Guard {
    range: Vec<u64>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.range.clear();
    }
}

#[inline(never)]
fn lock_range(from: u64) -> Guard {
    Guard { range: (from..from + 40 + pace::below(80)).collect() }
}

#[inline(never)]
fn run(from: u64) -> u64 {
    let guard = lock_range(from);
    let sum = guard.range.iter().sum();
    if from % 8 == 0 {
        std::mem::forget(guard);
    }
    sum
}

fn main() {
    pace::begin();
    let mut sum = 0u64;
    for from in 0.. {
        sum = sum.wrapping_add(run(from));
        pace::rest(if sum == 1 { 17 } else { 16 });
    }
}
