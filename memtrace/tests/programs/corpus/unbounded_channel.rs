// A channel without bound whose consumer is slower than its producer: 100 measurements a second come, some 75 are
// taken.
// leak: publish
// half: tuned
mod pace;

use std::{sync::mpsc, thread};

struct Measurement {
    name: String,
    values: Vec<f64>,
}

#[inline(never)]
fn publish(channel: &mpsc::Sender<Measurement>, number: u64) {
    let values = (0..32 + pace::below(32)).map(|n| n as f64).collect();
    let measurement = Measurement { name: format!("measurement {number}"), values };
    channel.send(measurement).expect("the consumer lives as long");
}

#[inline(never)]
fn consume(channel: &mpsc::Receiver<Measurement>) -> f64 {
    let mut sum = 0.0;
    for measurement in channel {
        sum += measurement.values[0] + measurement.name.len() as f64;
        pace::rest(13);
    }
    sum
}

fn main() {
    pace::begin();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || consume(&receiver));
    for number in 0.. {
        publish(&sender, number);
        pace::rest(10);
    }
}
