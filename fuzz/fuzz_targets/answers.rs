//! Answers of a process that a hostile image has taken over: taken if they answer the question, else refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memtrace::symbolize::reader::protocol::{Answer, checked};

fuzz_target!(|input: (u8, &[u8])| {
    let (count, bytes) = input;
    let Ok(answer) = serde_json::from_slice::<Answer>(bytes) else { return };
    if let Some(Ok(places)) = checked(answer, count.into()) {
        assert_eq!(places.len(), usize::from(count));
    }
});
