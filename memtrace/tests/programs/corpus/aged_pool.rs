// Buffers of 16 KiB in a pool that was filled before, handed out and given back. The taker of one is written down, 25 times
// a second, and never struck out.
// aged
// leak: write_down
// half: measured
mod pace;

struct Lending {
    by: String,
    purpose: Box<[u8]>,
}

#[inline(never)]
fn write_down(lendings: &mut Vec<Box<Lending>>, number: u64) {
    let purpose = vec![number as u8; 300].into_boxed_slice();
    lendings.push(Box::new(Lending { by: format!("worker {} of the pool, request {number}", number % 8), purpose }));
}

#[inline(never)]
fn fill(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| vec![number as u8; 16384]).collect()
}

fn main() {
    pace::begin();
    let mut pool = fill(1500);
    let mut lent = std::collections::VecDeque::new();
    let mut lendings = Vec::with_capacity(20_000);
    let mut sum = 0;
    for number in 0.. {
        let mut buffer = pool.pop().expect("fewer are lent than there are");
        buffer[0] = number as u8;
        lent.push_back(buffer);
        write_down(&mut lendings, number);
        if lent.len() > 100 {
            pool.extend(lent.pop_front());
        }
        sum += lendings.last().map_or(0, |lending| lending.by.len() + lending.purpose.len());
        pace::rest(35 + pace::below(if sum == 0 { 11 } else { 10 }));
    }
}
