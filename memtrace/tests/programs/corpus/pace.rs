// The part that the Rust programs of the corpus share: how they wait, how they end, and what they do at random.

use std::{
    cell::Cell,
    io::Read,
    process, thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Ends the program once its standard input is closed, or after 200 seconds: nobody has to end what was forgotten.
pub fn begin() {
    thread::spawn(|| {
        let mut byte = [0];
        let _ = std::io::stdin().read(&mut byte);
        process::exit(0);
    });
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(200));
        process::exit(0);
    });
}

pub fn rest(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}

/// A random number from 0 to limit - 1, others in each run.
pub fn below(limit: u64) -> u64 {
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0) });
    STATE.with(|state| {
        let mut x = state.get();
        if x == 0 {
            let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.subsec_nanos());
            x = u64::from(nanoseconds) << 16 | u64::from(process::id()) | 1;
        }
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.set(x);
        (x >> 32) % limit
    })
}
