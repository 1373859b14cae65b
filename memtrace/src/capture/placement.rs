//! Where in a function its probe sits.
//!
//! A uprobe replaces an instruction. The x86 kernel emulates a few kinds and runs every other in a
//! scratch page with the trap flag set, a second exception that costs several times the first. So the
//! probe is moved from the first byte to the first instruction that the kernel emulates, where nothing
//! that a probe reads has changed on the way and every call passes there exactly once.
//!
//! In: the function's bytes. Out: an offset. Knows nothing of files or BPF.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess, Register};

/// A place for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Bytes from the function's first.
    pub offset: u64,
    /// Whether the kernel emulates the instruction there instead of single-stepping it.
    pub emulated: bool,
}

/// The registers of arguments, by index (System V AMD64 ABI, 3.2.3).
const ARGUMENTS: [Register; 6] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];

/// How far into a function the search goes, in instructions. Prologues are shorter.
const MAX_WALKED: usize = 16;

/// Places a probe in the function whose whole code is `code`, for a program that reads the arguments of
/// these indices.
///
/// The first byte is the answer wherever a better one is not certain: where the code ends, cannot be
/// decoded, changes a needed argument or the stack pointer first, or may be entered again (by a
/// branch of its own) between the first byte and the probe.
#[must_use]
pub fn place(code: &[u8], arguments: &[u8]) -> Placement {
    let at_first = |emulated| Placement { offset: 0, emulated };
    let Some(instructions) = decode(code) else { return at_first(false) };
    let Some(first) = instructions.first() else { return at_first(false) };
    if is_emulated(first, code) {
        return at_first(true);
    }
    match first_emulated(&instructions, code, arguments) {
        Some(offset) if !is_entered_again(&instructions, offset) => Placement { offset, emulated: true },
        _ => at_first(false),
    }
}

/// Every instruction of the function in order, with addresses that count from its first byte. `None`
/// where the bytes are not all code: then its branches cannot be trusted to be all there are.
fn decode(code: &[u8]) -> Option<Vec<Instruction>> {
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut instructions = Vec::new();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return None;
        }
        instructions.push(instruction);
    }
    Some(instructions)
}

/// The offset of the first emulated instruction on the straight line from the function's entry, if
/// nothing before it touches what the probe needs.
fn first_emulated(instructions: &[Instruction], code: &[u8], arguments: &[u8]) -> Option<u64> {
    let argument = |index: &u8| ARGUMENTS.get(usize::from(*index)).copied();
    let needed: Vec<Register> = arguments.iter().filter_map(argument).chain([Register::RSP]).collect();
    let mut factory = InstructionInfoFactory::new();
    for instruction in instructions.iter().take(MAX_WALKED) {
        if is_emulated(instruction, code) {
            return Some(instruction.ip());
        }
        if instruction.flow_control() != FlowControl::Next || changes(instruction, &needed, &mut factory) {
            return None;
        }
    }
    None
}

fn changes(instruction: &Instruction, needed: &[Register], factory: &mut InstructionInfoFactory) -> bool {
    factory.info(instruction).used_registers().iter().any(|used| {
        let register = used.register().full_register();
        let writes =
            !matches!(used.access(), OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess);
        writes && needed.contains(&register)
    })
}

/// Whether a direct branch of the function lands behind its first byte, up to and including `offset`.
/// The probe would fire again there, or be jumped over.
fn is_entered_again(instructions: &[Instruction], offset: u64) -> bool {
    instructions.iter().any(|instruction| {
        let is_direct = matches!(
            instruction.flow_control(),
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch | FlowControl::Call
        );
        is_direct && (1..=offset).contains(&instruction.near_branch_target())
    })
}

/// Whether the x86 kernel emulates this instruction under a uprobe: `branch_setup_ops` and
/// `push_setup_ops` in arch/x86/kernel/uprobes.c (branches since 3.16, push since 4.20).
fn is_emulated(instruction: &Instruction, code: &[u8]) -> bool {
    let start = usize::try_from(instruction.ip()).unwrap_or(usize::MAX);
    let Some(bytes) = code.get(start..start.saturating_add(instruction.len())) else { return false };
    match instruction.code() {
        // The kernel refuses the operand-size prefix and knows no other prefix than REX.B.
        Code::Push_r64 => matches!(bytes, [0x50..=0x57] | [0x41, 0x50..=0x57]),
        Code::Nopd => bytes == [0x90],
        Code::Jmp_rel8_64 => bytes[0] == 0xeb,
        Code::Jmp_rel32_64 => bytes[0] == 0xe9,
        Code::Call_rel32_64 => bytes[0] == 0xe8,
        _ if instruction.is_jcc_short() => matches!(bytes[0], 0x70..=0x7f),
        _ if instruction.is_jcc_near() => bytes[0] == 0x0f,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn placed(code: &[u8]) -> (u64, bool) {
        let placement = place(code, &[0, 1]);
        (placement.offset, placement.emulated)
    }

    #[test]
    fn a_leading_push_is_taken() {
        assert_eq!(placed(&[0x55, 0x48, 0x89, 0xe5, 0xc3]), (0, true)); // push rbp; mov rbp, rsp; ret
        assert_eq!(placed(&[0x41, 0x57, 0xc3]), (0, true)); // push r15; ret
    }

    #[test]
    fn test_and_endbr_are_walked_over() {
        assert_eq!(placed(&[0x48, 0x85, 0xff, 0x74, 0x01, 0x90, 0xc3]), (3, true)); // test rdi, rdi; je +1; nop; ret
        assert_eq!(placed(&[0xf3, 0x0f, 0x1e, 0xfa, 0x53, 0x5b, 0xc3]), (4, true)); // endbr64; push rbx; pop rbx; ret
    }

    #[test]
    fn an_argument_or_the_stack_that_changes_first_keeps_the_probe_at_the_first_byte() {
        assert_eq!(placed(&[0x48, 0x89, 0xc7, 0x55, 0xc3]), (0, false)); // mov rdi, rax; push rbp
        assert_eq!(placed(&[0x31, 0xf6, 0x55, 0xc3]), (0, false)); // xor esi, esi; push rbp
        assert_eq!(placed(&[0x48, 0x83, 0xec, 0x08, 0xeb, 0x00, 0xc3]), (0, false)); // sub rsp, 8; jmp
    }

    #[test]
    fn an_argument_that_nobody_reads_may_change() {
        let code = [0x48, 0x89, 0xf9, 0x55, 0xc3]; // mov rcx, rdi; push rbp; ret
        assert_eq!(place(&code, &[0]), Placement { offset: 3, emulated: true });
        assert_eq!(place(&code, &[0, 3]), Placement { offset: 0, emulated: false });
    }

    #[test]
    fn a_loop_back_into_the_walked_range_keeps_the_probe_at_the_first_byte() {
        // test rdi, rdi; je +3; jmp -5 (to the je); ret
        assert_eq!(placed(&[0x48, 0x85, 0xff, 0x74, 0x02, 0xeb, 0xfc, 0xc3]), (0, false));
        // A branch back to the first byte passes the whole range again, as a call would.
        assert_eq!(placed(&[0x48, 0x85, 0xff, 0x74, 0x02, 0xeb, 0xf9, 0xc3]), (3, true));
    }

    #[test]
    fn a_return_or_an_indirect_jump_ends_the_straight_line() {
        assert_eq!(placed(&[0x31, 0xc0, 0xc3, 0x55]), (0, false)); // xor eax, eax; ret
        assert_eq!(placed(&[0xff, 0xe0, 0x55]), (0, false)); // jmp rax
    }

    #[test]
    fn forms_that_the_kernel_single_steps_are_not_taken_for_emulated() {
        assert_eq!(placed(&[0x66, 0x55, 0xc3]), (0, false)); // push bp
        assert_eq!(placed(&[0x0f, 0x1f, 0x00, 0xc3]), (0, false)); // nop dword [rax]
        assert_eq!(placed(&[0xf3, 0x90, 0xc3]), (0, false)); // pause
        assert_eq!(placed(&[0x6a, 0x00, 0xc3]), (0, false)); // push 0
    }

    #[test]
    fn bytes_that_are_not_code_keep_the_probe_at_the_first_byte() {
        assert_eq!(placed(&[]), (0, false));
        assert_eq!(placed(&[0x48, 0x85, 0xff, 0x74, 0x01, 0x06]), (0, false));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_place_inside_them(code in prop::collection::vec(any::<u8>(), 0..200)) {
            let placement = place(&code, &[0, 1, 2, 3, 4, 5]);
            prop_assert!(placement.offset == 0 || placement.offset < code.len() as u64);
        }
    }
}
