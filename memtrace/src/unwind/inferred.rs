//! Rows for code without call frame information, inferred from the code: where its instructions put the stack pointer and the
//! frame pointer.
//!
//! In: code, and where functions begin in it. Out: rows. The code is followed from each function's first instruction along each
//! way, also into other parts of a function that a compiler has put elsewhere. Code after a call is followed once the called
//! function is known to return: behind one that never does, another function may begin. Code behind a jump through a table
//! is as at the jump, and code that nothing leads to is taken for a function that is called through a pointer. Where nothing is
//! known, frame pointers must do.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
};

use memtrace_common::wire::code::{CfaRule, Row};

use crate::process::{
    arch::stack_effects,
    code_step::{Effect, Flow},
};

/// The word size of the stack.
const WORD: i64 = 8;
/// Functions begin at multiples of this, in bytes, where compilers leave room before them.
const FUNCTION_ALIGNMENT: u64 = 16;

/// Where the canonical frame address (CFA) and the caller's frame pointer are, seen from an instruction. In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// How far above the stack pointer the CFA is; nothing where that is not known.
    above_sp: Option<i64>,
    /// How far above the frame pointer it is, where that points into the frame.
    above_bp: Option<i64>,
    /// How far below the CFA the caller's frame pointer was saved, where it was.
    saved: Option<i64>,
    /// Whether the register still has the caller's frame pointer.
    is_callers: bool,
    /// Whether the stack pointer may be on another stack than the caller's frame.
    is_elsewhere: bool,
    /// Whether there is no caller: the caller's frame pointer is gone, and zero in its place (System V ABI of x86-64, 3.4.1).
    is_outermost: bool,
}

impl State {
    /// At the first instruction of a function: the return address is on top of the stack.
    const ENTRY: Self = Self {
        above_sp: Some(WORD),
        above_bp: None,
        saved: None,
        is_callers: true,
        is_elsewhere: false,
        is_outermost: false,
    };

    fn after(self, effect: Effect) -> Self {
        match effect {
            Effect::None => self,
            Effect::MoveStackPointer(bytes) => self.moved(bytes),
            Effect::PushFramePointer => {
                let pushed = self.moved(-WORD);
                let saved = if self.is_callers { pushed.above_sp } else { self.saved };
                Self { saved, ..pushed }
            }
            Effect::PopFramePointer => self.loaded(self.above_sp).moved(WORD),
            Effect::SaveFramePointer(above) if self.is_callers => Self { saved: self.below_cfa(above), ..self },
            Effect::SaveFramePointer(_) => self,
            Effect::RestoreFramePointer(above) => self.loaded(self.below_cfa(above)),
            Effect::SetFramePointer(above) => Self { above_bp: self.below_cfa(above), is_callers: false, ..self },
            Effect::StackPointerFromFrame(above) => Self { above_sp: self.above_bp.map(|cfa| cfa - above), ..self },
            Effect::LeaveFrame => {
                let left = Self { above_sp: self.above_bp, ..self };
                left.loaded(left.above_sp).moved(WORD)
            }
            Effect::LoseStackPointer => Self { above_sp: None, ..self },
            Effect::SwitchStackPointer => Self { above_sp: None, is_elsewhere: true, ..self },
            Effect::ClearFramePointer if self.is_callers && self.saved.is_none() => Self { is_outermost: true, ..self },
            Effect::ClearFramePointer | Effect::LoseFramePointer => Self { above_bp: None, is_callers: false, ..self },
        }
    }

    fn moved(self, bytes: i64) -> Self {
        Self { above_sp: self.above_sp.and_then(|cfa| cfa.checked_sub(bytes)), ..self }
    }

    /// How far below the CFA the word is that lies so far above the stack pointer.
    fn below_cfa(self, above_sp: i64) -> Option<i64> {
        self.above_sp?.checked_sub(above_sp)
    }

    /// The frame pointer was loaded from so far below the CFA.
    fn loaded(self, below_cfa: Option<i64>) -> Self {
        let is_callers = self.saved.is_some() && self.saved == below_cfa;
        Self { above_bp: None, saved: if is_callers { None } else { self.saved }, is_callers, ..self }
    }

    /// The row from `start` on.
    fn row(self, start: u32) -> Row {
        let words = |bytes: i64| i32::try_from(bytes / WORD).ok().filter(|words| bytes % WORD == 0 && *words > 0);
        let saved =
            self.saved.map_or(Some(0), |bytes| u8::try_from(words(bytes)?).ok().filter(|words| *words < u8::MAX));
        let row = |rule, above: Option<i64>| Row::new(start, rule, words(above?)?, saved?);
        if self.is_outermost {
            return Row::new(start, CfaRule::End, 0, 0).unwrap_or(Row::unknown(start));
        }
        let (by_frame_pointer, otherwise) = match self.is_elsewhere {
            true => (CfaRule::Switched, Row::switched(start)),
            false => (CfaRule::Bp, Row::by_frame_pointer(start)),
        };
        row(CfaRule::Sp, self.above_sp).or_else(|| row(by_frame_pointer, self.above_bp)).unwrap_or(otherwise)
    }
}

/// Instructions of so many bytes that do nothing are between functions; fewer may be part of something else.
const SURELY_PADDING_BYTES: usize = 3;

/// A stretch of an image's code.
#[derive(Debug)]
pub struct Stretch {
    /// The virtual offset of its first byte.
    pub start: u64,
    /// Its content.
    pub code: Vec<u8>,
}

impl Stretch {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.code.len() as u64)
    }

    fn index(&self, address: u64) -> Option<usize> {
        let index = usize::try_from(address.checked_sub(self.start)?).ok()?;
        (index < self.code.len()).then_some(index)
    }
}

/// The virtual offsets at which functions begin, as far as anything tells.
#[derive(Debug, Default)]
pub struct Beginnings {
    /// Those that symbols tell, or direct calls.
    pub sure: BTreeSet<u64>,
    /// Those of which something has the address: of a function, or of a place that jumps through a table lead to.
    pub maybe: BTreeSet<u64>,
}

/// The facts that code tells of itself.
#[derive(Debug, Default)]
pub struct Inferred {
    /// Rows, in no order; each comes with whether it only says where code ends that was followed.
    pub rows: Vec<(Row, bool)>,
    /// The functions that never return and that no call precedes.
    pub stack_ends: Vec<u64>,
}

/// Infers from code. Stretches are sorted, and apart.
#[must_use]
pub fn infer(stretches: &[Stretch], beginnings: &Beginnings) -> Inferred {
    let mut search = Search {
        stretches,
        owners: stretches.iter().map(|stretch| vec![NOBODY; stretch.code.len()]).collect(),
        functions: Vec::new(),
        indices: BTreeMap::new(),
        open: VecDeque::new(),
        tables: BTreeMap::new(),
        rows: Vec::new(),
    };
    let aligned = |address: &&u64| address.is_multiple_of(FUNCTION_ALIGNMENT);
    for function in beginnings.sure.iter().chain(beginnings.maybe.iter().filter(aligned)) {
        search.begin(*function);
    }
    search.follow();
    for address in &beginnings.maybe {
        if search.owner(*address) == Some(NOBODY) {
            search.begin(*address);
            search.follow();
        }
    }
    for number in 0..stretches.len() {
        search.follow_unseen(number);
    }
    Inferred { stack_ends: search.stack_ends(), rows: search.rows }
}

/// The index of a function among those that were found.
type Index = u32;
/// Of code that nobody was seen to execute.
const NOBODY: Index = Index::MAX;

/// A way that is to be followed.
#[derive(Clone, Copy)]
struct Way {
    at: u64,
    state: State,
    function: Index,
}

/// A function.
#[derive(Default)]
struct Function {
    /// Whether it was seen to return.
    returns: bool,
    /// The ways that begin after calls of it.
    after_calls: Vec<Way>,
    /// The functions that end with a jump to it.
    jump_here: Vec<Index>,
}

/// The code that was followed so far.
struct Search<'a> {
    stretches: &'a [Stretch],
    /// The function of which each byte of each stretch was followed.
    owners: Vec<Vec<Index>>,
    functions: Vec<Function>,
    indices: BTreeMap<u64, Index>,
    open: VecDeque<Way>,
    /// The jumps through tables.
    tables: BTreeMap<u64, Way>,
    rows: Vec<(Row, bool)>,
}

impl Search<'_> {
    /// A function begins at an address, and is to be followed.
    fn begin(&mut self, at: u64) {
        let Some(function) = Index::try_from(self.functions.len()).ok().filter(|index| *index != NOBODY) else {
            return;
        };
        if self.place(at).is_some() && !self.indices.contains_key(&at) {
            self.indices.insert(at, function);
            self.functions.push(Function::default());
            self.open.push_back(Way { at, state: State::ENTRY, function });
        }
    }

    fn place(&self, address: u64) -> Option<(usize, usize)> {
        let number = self.stretches.partition_point(|stretch| stretch.end() <= address);
        Some((number, self.stretches.get(number)?.index(address)?))
    }

    fn follow(&mut self) {
        while let Some(way) = self.open.pop_front() {
            self.walk(way);
        }
    }

    /// Walks straight on, until the code goes elsewhere, was seen before, or is another function's.
    fn walk(&mut self, way: Way) {
        let Some((number, index)) = self.place(way.at) else { return self.returns(way.function) };
        let stretch = &self.stretches[number];
        let Way { at: from, mut state, function } = way;
        let (mut last, mut end): (Option<Row>, u64) = (None, from);
        for step in stack_effects::steps(&stretch.code[index..], from) {
            let (Some(first), Ok(start)) = (stretch.index(step.at), u32::try_from(step.at)) else { break };
            let known = [self.owners[number][first], self.indices.get(&step.at).copied().unwrap_or(NOBODY)];
            if let Some(other) =
                known.into_iter().find(|owner| *owner != NOBODY && (*owner != function || step.at > from))
            {
                self.goes_on_in(function, other);
                break;
            }
            if known[0] == function {
                break;
            }
            let until = first.saturating_add(usize::try_from(step.next - step.at).unwrap_or(1)).min(stretch.code.len());
            self.owners[number][first..until].fill(function);
            let row = state.row(start);
            if last.is_none_or(|last| !last.says_the_same(&row)) {
                self.rows.push((row, false));
                last = Some(row);
            }
            (state, end) = (state.after(step.effect), step.next);
            let to = |at| Way { at, state, function };
            match step.flow {
                Flow::Next => continue,
                Flow::Branch(at) => {
                    self.open.push_back(to(at));
                    continue;
                }
                Flow::Jump(at) => self.open.push_back(to(at)),
                Flow::Call(callee) => self.continue_after(callee, to(step.next)),
                Flow::IndirectJump => {
                    self.tables.insert(step.at, to(step.at));
                    // Or it goes on in a function that returns.
                    self.returns(function);
                }
                Flow::Return => self.returns(function),
                Flow::End => {}
            }
            break;
        }
        if end > from {
            self.rows.extend(u32::try_from(end).ok().map(|end| (Row::by_frame_pointer(end), true)));
        }
    }

    /// Follows what comes after a call: at once, unless the called function is of this code and was not seen to return so far.
    fn continue_after(&mut self, callee: Option<u64>, way: Way) {
        let callee = callee.and_then(|callee| self.indices.get(&callee));
        match callee.and_then(|callee| self.functions.get_mut(*callee as usize)) {
            Some(callee) if !callee.returns => callee.after_calls.push(way),
            _ => self.open.push_back(way),
        }
    }

    /// A function goes on in another one, which may be the same.
    fn goes_on_in(&mut self, function: Index, other: Index) {
        if self.functions[other as usize].returns {
            self.returns(function);
        } else if other != function {
            self.functions[other as usize].jump_here.push(function);
        }
    }

    /// A function returns, and so do those that end with a jump to it.
    fn returns(&mut self, function: Index) {
        let mut returning = vec![function];
        while let Some(function) = returning.pop() {
            let function = &mut self.functions[function as usize];
            if !std::mem::replace(&mut function.returns, true) {
                self.open.extend(function.after_calls.drain(..));
                returning.append(&mut function.jump_here);
            }
        }
    }

    /// Follows what nothing has led to.
    fn follow_unseen(&mut self, number: usize) {
        let stretch = &self.stretches[number];
        // Whether it is code for sure that lies before.
        let (mut at, mut is_after_code) = (stretch.start, true);
        while let Some(index) = stretch.index(at) {
            let Some(seen) = self.owners[number][index..].iter().position(|owner| *owner == NOBODY) else { break };
            let padding = stack_effects::padding(&stretch.code[index + seen..]);
            at += (seen + padding) as u64;
            is_after_code |= seen > 0 || padding >= SURELY_PADDING_BYTES;
            if self.owner(at) != Some(NOBODY) {
                continue;
            }
            let begin = self.indices.range(..=at).next_back().map_or(0, |(begin, _)| *begin);
            let table = self.tables.range(begin..at).next_back().map(|(_, table)| *table);
            match table {
                Some(table) => self.open.push_back(Way { at, ..table }),
                None if is_after_code && at.is_multiple_of(FUNCTION_ALIGNMENT) => self.begin(at),
                None => {}
            }
            self.follow();
            // Code that nothing tells of is passed over byte by byte.
            is_after_code = self.owner(at) != Some(NOBODY);
            at += u64::from(!is_after_code);
        }
    }

    /// The functions that never return and that no call precedes.
    fn stack_ends(&self) -> Vec<u64> {
        let is_end = |(at, index): (&u64, &Index)| {
            let (number, place) = self.place(*at)?;
            let is_end =
                !self.functions[*index as usize].returns && follows_no_call(&self.stretches[number].code[..place]);
            is_end.then_some(*at)
        };
        self.indices.iter().filter_map(is_end).collect()
    }

    fn owner(&self, address: u64) -> Option<Index> {
        self.place(address).map(|(number, index)| self.owners[number][index])
    }
}

impl Beginnings {
    /// Adds those that a stretch of code calls, or has the addresses of.
    pub fn add_referred(&mut self, stretch: &Stretch) {
        let mut from = 0;
        while from < stretch.code.len() {
            let mut next = from + 1;
            for step in stack_effects::steps(&stretch.code[from..], stretch.start + from as u64) {
                match step.flow {
                    Flow::Call(callee) => self.sure.extend(callee),
                    _ => self.maybe.extend(step.refers_to),
                }
                next = usize::try_from(step.next - stretch.start).unwrap_or(usize::MAX);
            }
            // Past what is no instruction.
            from = next.max(from + 1);
        }
    }
}

/// Whether only somebody's hand can have put the address at the end of this code on a stack as a return address: no call is there.
pub(super) fn follows_no_call(before: &[u8]) -> bool {
    !before.is_empty() && !stack_effects::follows_call(before)
}

/// The parts of `whole` that are in none of `ranges`, which are sorted by their starts.
#[must_use]
pub fn gaps(whole: Range<u64>, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let (mut gaps, mut at) = (Vec::new(), whole.start);
    for range in ranges.iter().filter(|range| range.start < whole.end && range.end > whole.start) {
        if range.start > at {
            gaps.push(at..range.start);
        }
        at = at.max(range.end);
    }
    if at < whole.end {
        gaps.push(at..whole.end);
    }
    gaps
}

#[cfg(test)]
mod tests;
