//! A target's stack, unwound by rows of a hostile image and by frame pointers. This is the code that runs in the kernel.

use memtrace_common::{
    steps::{
        cfi::step,
        frame::{Memory, Registers, Step},
        frame_pointer,
        stack_cache::{CACHE_WORDS, Cached, Source, StackCache},
    },
    wire::code::{CfaRule, Row},
};

use crate::{Target, input::Input};

/// The most steps of a walk.
const MAX_STEPS: usize = 128;

/// Registers, one row a step, and the stack.
pub const TARGET: Target = Target { name: "stack", run, seeds };

/// A stack from an address upwards.
#[derive(Clone, Copy)]
struct Stack<'a> {
    start: u64,
    bytes: &'a [u8],
}

impl Source for Stack<'_> {
    fn copy(&self, address: u64, words: &mut [u64; CACHE_WORDS]) -> bool {
        (0..).step_by(8).zip(words).all(|(offset, word)| {
            let read = address.checked_add(offset).and_then(|at| Source::word(self, at));
            read.map(|read| *word = read).is_some()
        })
    }

    fn word(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.start)?).ok()?;
        Some(u64::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }
}

impl Memory for Stack<'_> {
    fn word(&mut self, address: u64) -> Option<u64> {
        Source::word(self, address)
    }
}

fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let start = input.long();
    let from = Registers { pc: input.long(), sp: input.long(), bp: input.long() };
    let rows = input.part();
    let source = Stack { start, bytes: input.rest() };
    let row = |words: &[u8; 4]| {
        let [rule, bp_words, low, high] = *words;
        Row::new(0, CfaRule::try_from(rule % 9).ok()?, i16::from_le_bytes([low, high]).into(), bp_words)
    };
    let rows: Vec<Row> = rows.as_chunks::<4>().0.iter().filter_map(row).collect();
    let by_rows = |from: Registers, index: usize, memory: &mut dyn Memory| {
        step(rows.get(index).copied().unwrap_or_default(), from, &mut Through(memory))
    };
    let by_frame_pointers =
        |of: Registers, _: usize, memory: &mut dyn Memory| frame_pointer::step(of, from.sp, &mut Through(memory));
    for way in [&by_rows as &Way<'_>, &by_frame_pointers] {
        let mut cache = StackCache::EMPTY;
        let cached = walk(way, from, &mut Cached { cache: &mut cache, source });
        assert_eq!(walk(way, from, &mut { source }), cached, "the cache changes what is read");
    }
}

/// How a step of an index is made.
type Way<'a> = dyn Fn(Registers, usize, &mut dyn Memory) -> Step + 'a;

/// Memory that is known by its trait alone.
struct Through<'a>(&'a mut dyn Memory);

impl Memory for Through<'_> {
    fn word(&mut self, address: u64) -> Option<u64> {
        self.0.word(address)
    }
}

fn walk(way: &Way<'_>, from: Registers, memory: &mut dyn Memory) -> Vec<Registers> {
    let (mut frames, mut registers) = (Vec::new(), from);
    for index in 0..MAX_STEPS {
        registers = match way(registers, index, memory) {
            Step::Caller(caller) => {
                assert!(caller.sp > registers.sp, "a frame that does not lie further out");
                caller
            }
            Step::Interrupted(interrupted) => interrupted,
            Step::End | Step::Failed(_) => break,
        };
        frames.push(registers);
    }
    frames
}

fn seeds() -> Vec<Vec<u8>> {
    let registers = [0x7ffd_1000_u64, 0x40_1000, 0x7ffd_1000, 0x7ffd_1010].map(u64::to_le_bytes).concat();
    let rows = [[1, 0, 2, 0], [2, 2, 2, 0], [6, 0, 0, 0], [5, 0, 0, 0], [8, 2, 0, 0], [7, 0, 0, 0]].concat();
    let stack = (0..256_u64).flat_map(|index| {
        (if index % 2 == 0 { 0x7ffd_1000 + 8 * (index + 2) } else { 0x40_1000 + index }).to_le_bytes()
    });
    vec![[registers, crate::input::part(&rows), stack.collect()].concat()]
}
