// A channel with a bound: the producer is faster, and so it waits. Bound: 64 blocks in the channel, from the first
// second.
// innocent
// half: tuned
mod pace;

use std::{sync::mpsc, thread};

#[inline(never)]
fn produce(number: u64) -> Vec<u8> {
    vec![number as u8; 500 + pace::below(1000) as usize]
}

fn main() {
    pace::begin();
    let (sender, receiver) = mpsc::sync_channel::<Vec<u8>>(64);
    thread::spawn(move || {
        for block in receiver {
            pace::rest(if block.is_empty() { 11 } else { 10 });
        }
    });
    for number in 0.. {
        sender.send(produce(number)).expect("the consumer lives as long");
    }
}
