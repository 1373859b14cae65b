//! Records of the ring buffers: memtrace's own kernel side writes them, with addresses and lengths that a target gave to system
//! calls.

use memtrace::model::ranges::Ranges;
use memtrace_common::wire::{
    event::{Event, EventKind},
    mapping::{MappingEvent, MappingKind},
};

use crate::Target;

/// Records of either kind, one after the other.
pub const TARGET: Target = Target { name: "records", run, seeds };

fn run(input: &[u8]) {
    assert!(Event::from_bytes(input).is_none() || input.len() == size_of::<Event>());
    for record in input.chunks(size_of::<Event>()) {
        _ = Event::from_bytes(record).map(|event| EventKind::try_from(event.kind));
    }
    let mut ranges = Ranges::default();
    let (mut mapped, mut given_up) = (0u128, 0u128);
    for event in input.chunks(size_of::<MappingEvent>()).filter_map(MappingEvent::from_bytes) {
        let (start, end) = (event.result, event.result.saturating_add(event.length));
        let freed = ranges.give_up(start, end);
        given_up += freed.iter().map(|freed| u128::from(freed.bytes)).sum::<u128>();
        if MappingKind::try_from(event.kind) != Ok(MappingKind::Leave) && !event.has_failed() {
            ranges.insert(start, end, event.site);
            mapped += u128::from(end - start);
        }
    }
    let left: u128 = ranges.parts().map(|(start, end)| u128::from(end - start)).sum();
    assert_eq!(mapped - given_up, left, "bytes were lost or made up");
}

fn seeds() -> Vec<Vec<u8>> {
    let record = |kind: MappingKind, result: u64, length: u64| {
        let fields = [(kind as u32).to_le_bytes(), 1u32.to_le_bytes(), [0; 4], 3u32.to_le_bytes()].concat();
        [fields, result.to_le_bytes().to_vec(), length.to_le_bytes().to_vec(), vec![0; 8]].concat()
    };
    let mapped = [(0x1000, 0x3000), (0x2000, 0x1000), (u64::MAX - 0x5000, 0x9000)];
    let mapped: Vec<u8> = mapped.iter().flat_map(|(at, length)| record(MappingKind::Mapped, *at, *length)).collect();
    let event = [2u32, 7, 5, 4].map(u32::to_le_bytes).concat();
    vec![[mapped, record(MappingKind::Leave, 0x1800, 0x1000)].concat(), event]
}
