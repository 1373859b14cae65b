// package: bytes of crates.io, old 1.10.0, fixed 1.10.1
// leak: from_owner
//! A relay that takes datagrams in, and keeps the last hundred as vectors.
//!
//! Where Bytes::from_owner() had made the bytes, turning them into a vector copied them, and never dropped their owner.
//! <https://github.com/tokio-rs/bytes/pull/773>

use std::{collections::VecDeque, thread, time::Duration};

use bytes::Bytes;

struct Datagram {
    room: [u8; 1500],
    length: usize,
}

impl AsRef<[u8]> for Datagram {
    fn as_ref(&self) -> &[u8] {
        &self.room[..self.length]
    }
}

fn receive(turn: usize) -> Datagram {
    Datagram { room: [turn as u8; 1500], length: 1000 + turn % 500 }
}

fn main() {
    println!("running");
    let mut last = VecDeque::new();
    for turn in 0.. {
        // Bytes that are only read are freed.
        let shown = Bytes::from_owner(receive(turn));
        assert_eq!(shown.slice(..10).len(), 10);
        last.push_back(Vec::from(Bytes::from_owner(receive(turn))));
        if last.len() > 100 {
            last.pop_front();
        }
        thread::sleep(Duration::from_millis(10));
    }
}
