// Answers are remembered in a map of main's, each under a key of its own; main drops it as it returns, after 56 seconds.
// leak: remember
// ends
// half: tuned
use std::{collections::BTreeMap, time::Instant};

mod pace;

#[inline(never)]
fn remember(answers: &mut BTreeMap<u64, Vec<u8>>, number: u64) {
    answers.insert(number, vec![number as u8; 200 + pace::below(200) as usize]);
}

fn main() {
    pace::begin();
    let begun = Instant::now();
    let mut answers = BTreeMap::new();
    for number in 0.. {
        remember(&mut answers, number);
        pace::rest(15);
        if begun.elapsed().as_secs() >= 56 {
            break;
        }
    }
    println!("{}", answers.len());
}
