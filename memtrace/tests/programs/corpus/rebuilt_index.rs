// An index is built bit by bit for eight seconds, then takes the place of the one before, which is dropped as a whole.
// Bound: two indices of some 60 KiB.
// innocent
// half: measured
mod pace;

use std::collections::BTreeMap;

type Index = BTreeMap<u64, Vec<u32>>;

#[inline(never)]
fn index_document(index: &mut Index, document: u32) {
    for _ in 0..3 {
        index.entry(pace::below(500)).or_default().push(document);
    }
}

fn main() {
    pace::begin();
    let mut current = Index::new();
    let mut found = 0;
    loop {
        let mut next = Index::new();
        for document in 0..400 {
            index_document(&mut next, document);
            found += current.get(&pace::below(500)).map_or(0, Vec::len);
            pace::rest(if found == 1 { 19 } else { 20 });
        }
        current = next;
    }
}
