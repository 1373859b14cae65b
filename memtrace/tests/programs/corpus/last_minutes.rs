// A VecDeque of the last 600 frames, of some hundred bytes to some kibibytes each; 40 a second, so 15 seconds. Bound:
// 600.
// innocent
// half: measured
mod pace;

use std::collections::VecDeque;

#[inline(never)]
fn record(frames: &mut VecDeque<Box<[u8]>>) {
    if frames.len() == 600 {
        frames.pop_front();
    }
    let length = if pace::below(10) == 0 { 4000 } else { 100 + pace::below(300) };
    frames.push_back(vec![7; length as usize].into_boxed_slice());
}

fn main() {
    pace::begin();
    let mut frames = VecDeque::new();
    loop {
        record(&mut frames);
        pace::rest(25);
    }
}
