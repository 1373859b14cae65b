// A table of 20,000 rows that are loaded when they are first asked for. Nearly all had been before; the last ones come
// within 34 s, evenly. Bound: 20,000 rows of 500 bytes.
// aged
// innocent
// half: tuned
mod pace;

const ROWS: usize = 20_000;

#[inline(never)]
fn load(row: usize) -> Box<[u8]> {
    vec![row as u8; 500].into_boxed_slice()
}

fn main() {
    pace::begin();
    let mut rows: Vec<Option<Box<[u8]>>> = (0..ROWS).map(|row| (row < ROWS - 1600).then(|| load(row))).collect();
    let mut asked = ROWS - 1600;
    let mut sum = 0;
    loop {
        if asked < ROWS {
            rows[asked] = Some(load(asked));
            asked += 1;
        }
        sum += rows[pace::below(asked as u64) as usize].as_ref().map_or(0, |row| usize::from(row[0]));
        pace::rest(if sum == 1 { 22 } else { 21 });
    }
}
