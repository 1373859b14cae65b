//! Where a function returns: its `ret` instructions, for functions whose return address must not be
//! touched.
//!
//! A return probe puts the kernel's trampoline in place of the return address. A C++ exception that passes
//! there ends the program, because the unwinder finds no call frame information for the trampoline. So
//! functions that may throw are watched where they execute `ret`. The search follows every branch and every
//! jump into other functions, which return in this one's place, and steps over calls. It may find `ret`s
//! that other calls execute too: whoever attaches there tells them by the stack pointer.
//!
//! In: an image's code. Out: virtual offsets. Knows nothing of files or BPF.

use std::collections::HashSet;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};
use thiserror::Error;

/// How returns of hooked functions are seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Returns {
    /// By return probes where the allocator is known to return on the stack that it was called on, and throws nothing; else
    /// at `ret` instructions where all can be found.
    #[default]
    Auto,
    /// By return probes, but of functions that may throw.
    Trampoline,
    /// At `ret` instructions.
    Instruction,
}

/// Why not every return of a function could be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReturnsError {
    /// A jump whose target is known only when it is executed.
    #[error("it jumps to where a register or a table says, at {0:#x}")]
    IndirectJump(u64),
    /// Bytes that should be code are none, or are not in the file.
    #[error("its code cannot be decoded at {0:#x}")]
    NotCode(u64),
    /// More code than any allocator's function has.
    #[error("it reaches more than {MAX_INSTRUCTIONS} instructions")]
    TooLarge,
    /// More places than any allocator's function returns at. Each would get a probe.
    #[error("it returns at more than {MAX_RETURNS} places")]
    TooMany,
}

/// The most code that is searched. tcmalloc's `operator new` reaches about 400 instructions.
const MAX_INSTRUCTIONS: usize = 20_000;

/// The most places of one function. An allocator's has ten at most.
const MAX_RETURNS: usize = 256;

/// A place with which a call can return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Return {
    /// The virtual offset of the instruction.
    pub at: u64,
    /// The value that is returned there.
    pub value: Value,
}

/// The value that is returned at an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// The content of the register for returned values.
    Returned,
    /// The content of the register for the first argument: the instruction jumps to a function that returns it, as `memset`
    /// does. The return address is where it is at a `ret`.
    FirstArgument,
}

/// Where a jump through a table of addresses leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linked {
    /// Into the same image.
    Here(u64),
    /// To a function that is hooked itself, and is seen to return.
    Hooked,
    /// To a function that returns its first argument.
    FirstArgument,
}

/// An image's code, by virtual offset.
pub trait Text {
    /// The code from `address` to where its function, or that part of it, ends.
    fn code_from(&self, address: u64) -> Option<Vec<u8>>;
    /// Where the entry at `slot` of the table of addresses (GOT) leads.
    fn linked(&self, slot: u64) -> Option<Linked>;
}

/// Every place with which a call of the function at `entry` can return.
///
/// # Errors
/// Where the control flow cannot be followed to its end.
pub fn returns(text: &impl Text, entry: u64) -> Result<Vec<Return>, ReturnsError> {
    let mut search = Search { seen: HashSet::new(), open: vec![entry], returns: Vec::new() };
    while let Some(address) = search.open.pop() {
        if !search.seen.contains(&address) {
            search.walk(text, address)?;
        }
        if search.returns.len() > MAX_RETURNS {
            return Err(ReturnsError::TooMany);
        }
    }
    search.returns.sort_unstable();
    Ok(search.returns)
}

struct Search {
    seen: HashSet<u64>,
    open: Vec<u64>,
    returns: Vec<Return>,
}

impl Search {
    /// Walks straight on from `address`. Code ends without a return where the last call does not come back.
    fn walk(&mut self, text: &impl Text, address: u64) -> Result<(), ReturnsError> {
        let code = text.code_from(address).filter(|code| !code.is_empty()).ok_or(ReturnsError::NotCode(address))?;
        let mut decoder = Decoder::with_ip(64, &code, address, DecoderOptions::NONE);
        while decoder.can_decode() {
            let instruction = decoder.decode();
            if instruction.is_invalid() {
                return Err(ReturnsError::NotCode(instruction.ip()));
            }
            if !self.seen.insert(instruction.ip()) {
                return Ok(());
            }
            if self.seen.len() > MAX_INSTRUCTIONS {
                return Err(ReturnsError::TooLarge);
            }
            match instruction.flow_control() {
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall | FlowControl::XbeginXabortXend => {}
                FlowControl::ConditionalBranch => self.open.push(instruction.near_branch_target()),
                FlowControl::UnconditionalBranch => {
                    let target = instruction.near_branch_target();
                    // Not in the stub, which others call: it would be probed for them as well.
                    if stub_leads(text, target) == Some(Linked::FirstArgument) {
                        self.returns.push(Return { at: instruction.ip(), value: Value::FirstArgument });
                    } else {
                        self.open.push(target);
                    }
                    return Ok(());
                }
                FlowControl::Return if instruction.code() == Code::Retnq => {
                    self.returns.push(Return { at: instruction.ip(), value: Value::Returned });
                    return Ok(());
                }
                FlowControl::Return | FlowControl::IndirectBranch => return self.leave(text, &instruction),
                FlowControl::Interrupt | FlowControl::Exception => return Ok(()),
            }
        }
        Ok(())
    }

    fn leave(&mut self, text: &impl Text, instruction: &Instruction) -> Result<(), ReturnsError> {
        match leads(text, instruction) {
            Some(Linked::Here(address)) => self.open.push(address),
            Some(Linked::Hooked) => {}
            Some(Linked::FirstArgument) => {
                self.returns.push(Return { at: instruction.ip(), value: Value::FirstArgument });
            }
            None => return Err(ReturnsError::IndirectJump(instruction.ip())),
        }
        Ok(())
    }
}

/// Where an indirect jump leads, if it goes through the table of addresses.
fn leads(text: &impl Text, instruction: &Instruction) -> Option<Linked> {
    let through_table = instruction.op0_kind() == OpKind::Memory && instruction.memory_base() == Register::RIP;
    if through_table { text.linked(instruction.ip_rel_memory_address()) } else { None }
}

/// Where a stub at `address` leads that does nothing but jump through the table of addresses.
fn stub_leads(text: &impl Text, address: u64) -> Option<Linked> {
    let code = text.code_from(address)?;
    let mut decoder = Decoder::with_ip(64, &code, address, DecoderOptions::NONE);
    let mut instructions = decoder.iter().skip_while(|instruction| instruction.code() == Code::Endbr64);
    let jump = instructions.next().filter(|jump| jump.flow_control() == FlowControl::IndirectBranch)?;
    leads(text, &jump)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Code at 0, with one slot that leads somewhere.
    struct Bytes<'a>(&'a [u8], Option<Linked>);

    impl Text for Bytes<'_> {
        fn code_from(&self, address: u64) -> Option<Vec<u8>> {
            Some(self.0.get(usize::try_from(address).ok()?..)?.to_vec())
        }

        fn linked(&self, slot: u64) -> Option<Linked> {
            self.1.filter(|_| slot == 0x100)
        }
    }

    fn found(code: &[u8]) -> Result<Vec<u64>, ReturnsError> {
        Ok(returns(&Bytes(code, None), 0)?.into_iter().map(|found| found.at).collect())
    }

    #[test]
    fn every_way_out_is_found() {
        // test rdi, rdi; je +1; ret; xor eax, eax; ret
        assert_eq!(found(&[0x48, 0x85, 0xff, 0x74, 0x01, 0xc3, 0x31, 0xc0, 0xc3]), Ok(vec![5, 8]));
        // jmp +1; int3; rep ret
        assert_eq!(found(&[0xeb, 0x01, 0xcc, 0xf3, 0xc3]), Ok(vec![3]));
    }

    #[test]
    fn calls_are_stepped_over_and_loops_end() {
        // call +1; ret; nop; ret: what is called returns to here, not to our caller
        assert_eq!(found(&[0xe8, 0x01, 0, 0, 0, 0xc3, 0x90, 0xc3]), Ok(vec![5]));
        // nop; jmp -3
        assert_eq!(found(&[0x90, 0xeb, 0xfd]), Ok(vec![]));
        // call rax, as the last of the function: it does not come back
        assert_eq!(found(&[0xff, 0xd0]), Ok(vec![]));
    }

    #[test]
    fn jumps_that_lead_nobody_knows_where_are_refused() {
        assert_eq!(found(&[0xff, 0xe0]), Err(ReturnsError::IndirectJump(0))); // jmp rax
        assert_eq!(found(&[0xff, 0x24, 0xc5, 0, 0, 0, 0]), Err(ReturnsError::IndirectJump(0))); // jmp [rax*8]
        assert_eq!(found(&[0xc2, 8, 0]), Err(ReturnsError::IndirectJump(0))); // ret 8
        assert_eq!(found(&[0x06]), Err(ReturnsError::NotCode(0)));
        assert_eq!(found(&[0xeb, 0x7f]), Err(ReturnsError::NotCode(0x81)));
    }

    #[test]
    fn a_function_that_returns_at_more_places_than_any_real_one_is_refused() {
        // je +1; ret, again and again; ret
        let returns_at = |count: usize| [[0x74, 0x01, 0xc3].repeat(count - 1), vec![0xc3]].concat();
        assert_eq!(found(&returns_at(MAX_RETURNS)).map(|found| found.len()), Ok(MAX_RETURNS));
        assert_eq!(found(&returns_at(MAX_RETURNS + 1)), Err(ReturnsError::TooMany));
    }

    #[test]
    fn jumps_through_the_table_of_addresses_are_followed() {
        let code = [0xff, 0x25, 0xfa, 0, 0, 0, 0x90, 0xc3]; // jmp [rip+0xfa], which is 0x100; nop; ret
        let end = Return { at: 7, value: Value::Returned };
        assert_eq!(returns(&Bytes(&code, Some(Linked::Here(6))), 0), Ok(vec![end]));
        assert_eq!(returns(&Bytes(&code, Some(Linked::Hooked)), 0), Ok(vec![]));
        assert_eq!(returns(&Bytes(&code, None), 0), Err(ReturnsError::IndirectJump(0)));
    }

    #[test]
    fn a_jump_to_what_returns_its_first_argument_returns_that() {
        let first_argument = |at| Ok(vec![Return { at, value: Value::FirstArgument }]);
        let linked = Some(Linked::FirstArgument);
        // jmp +1; int3; endbr64; jmp [rip+0xf3], which is 0x100
        let code = [0xeb, 0x01, 0xcc, 0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 0xf3, 0, 0, 0];
        assert_eq!(returns(&Bytes(&code, linked), 0), first_argument(0));
        // The same without a stub.
        assert_eq!(returns(&Bytes(&code, linked), 3), first_argument(7));
    }

    proptest! {
        #[test]
        fn any_bytes_end_and_give_returns_inside_them(code in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(returns) = found(&code) {
                for offset in returns {
                    let at = usize::try_from(offset).unwrap();
                    prop_assert!(code[at..].iter().take(15).any(|byte| *byte == 0xc3));
                }
            }
        }
    }
}
