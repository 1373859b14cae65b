//! The effects of instructions on the stack pointer and the frame pointer, and where they lead.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use crate::process::code_step::{CodeStep, Effect, Flow};

/// The longest call instruction, in bytes.
const MAX_CALL_BYTES: usize = 7;

/// The steps of a stretch of code that begins at `address`, one an instruction, up to the first that is none.
pub(crate) fn steps(code: &[u8], address: u64) -> impl Iterator<Item = CodeStep> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut info = InstructionInfoFactory::new();
    std::iter::from_fn(move || {
        if !decoder.can_decode() {
            return None;
        }
        let instruction = decoder.decode();
        (!instruction.is_invalid()).then(|| CodeStep {
            at: instruction.ip(),
            next: instruction.next_ip(),
            effect: effect(&instruction, &mut info),
            flow: flow(&instruction),
            refers_to: (instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand())
                .then(|| instruction.ip_rel_memory_address()),
        })
    })
}

/// How many bytes at the beginning of code do nothing: room that compilers leave between functions.
pub(crate) fn padding(code: &[u8]) -> usize {
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut length = 0;
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if !matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3) {
            break;
        }
        length = decoder.position();
    }
    length
}

/// Whether a return address follows a call, by the bytes before it.
pub(crate) fn follows_call(before: &[u8]) -> bool {
    (2..=MAX_CALL_BYTES.min(before.len())).any(|length| {
        let mut decoder = Decoder::with_ip(64, &before[before.len() - length..], 0, DecoderOptions::NONE);
        let instruction = decoder.decode();
        instruction.len() == length
            && matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
    })
}

/// Whether code begins with the system call in which a signal handler ends: `rt_sigreturn`, number 15 (Linux 6.18,
/// arch/x86/entry/syscalls/syscall_64.tbl), in a 64-bit or a 32-bit register.
pub(crate) fn is_signal_return(code: &[u8]) -> bool {
    let call = &[0x0f, 0x05][..];
    [&[0x48, 0xc7, 0xc0, 15, 0, 0, 0][..], &[0xb8, 15, 0, 0, 0]]
        .iter()
        .any(|number| code.strip_prefix(*number).is_some_and(|rest| rest.starts_with(call)))
}

/// How many bytes of code tell whether that is a signal handler's end.
pub(crate) const SIGNAL_RETURN_BYTES: usize = 9;

/// Whether a step of code does nothing but mark that jumps may lead there (`endbr64`).
pub(crate) fn is_landing_mark(code: &[u8], step: CodeStep) -> bool {
    let (from, to) = (usize::try_from(step.at), usize::try_from(step.next));
    matches!((from, to), (Ok(from), Ok(to)) if code.get(from..to) == Some(&[0xf3, 0x0f, 0x1e, 0xfa]))
}

/// How many bytes before a return address tell whether it follows a call.
pub(crate) const BEFORE_RETURN_BYTES: usize = MAX_CALL_BYTES;

fn flow(instruction: &Instruction) -> Flow {
    match instruction.flow_control() {
        // Only the kernel may wait for an interrupt: a program ends there.
        FlowControl::Next if instruction.mnemonic() == Mnemonic::Hlt => Flow::End,
        FlowControl::Next => Flow::Next,
        FlowControl::UnconditionalBranch => Flow::Jump(instruction.near_branch_target()),
        FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => {
            Flow::Branch(instruction.near_branch_target())
        }
        FlowControl::Call => Flow::Call(Some(instruction.near_branch_target())),
        FlowControl::IndirectCall => Flow::Call(None),
        FlowControl::IndirectBranch => Flow::IndirectJump,
        // A system call comes back.
        FlowControl::Interrupt if instruction.mnemonic() == Mnemonic::Syscall => Flow::Next,
        FlowControl::Return => Flow::Return,
        FlowControl::Interrupt | FlowControl::Exception => Flow::End,
    }
}

fn effect(instruction: &Instruction, info: &mut InstructionInfoFactory) -> Effect {
    let (first, second) = (instruction.op0_kind(), instruction.op1_kind());
    let to_register = (first == OpKind::Register).then(|| instruction.op0_register());
    let from_register = (second == OpKind::Register).then(|| instruction.op1_register());
    let immediate = || is_immediate(second).then(|| instruction.immediate(1).cast_signed());
    let on_stack = |operand: u32, register: Register| {
        let is_memory = instruction.op_kind(operand) == OpKind::Memory;
        let is_plain = instruction.memory_base() == register && instruction.memory_index() == Register::None;
        (is_memory && is_plain).then(|| instruction.memory_displacement64().cast_signed())
    };
    let address = |register| {
        let is_plain = instruction.memory_base() == register && instruction.memory_index() == Register::None;
        is_plain.then(|| instruction.memory_displacement64().cast_signed())
    };
    let told = match (instruction.mnemonic(), to_register, from_register) {
        (Mnemonic::Push, Some(Register::RBP), _) => Some(Effect::PushFramePointer),
        (Mnemonic::Pop, Some(Register::RBP), _) => Some(Effect::PopFramePointer),
        (Mnemonic::Pop, Some(Register::RSP), _) => Some(Effect::SwitchStackPointer),
        (Mnemonic::Xchg, Some(Register::RSP), _) | (Mnemonic::Xchg, _, Some(Register::RSP)) => {
            Some(Effect::SwitchStackPointer)
        }
        (Mnemonic::Leave, ..) => Some(Effect::LeaveFrame),
        // The called function gives back what it was called with.
        (Mnemonic::Call, ..) => Some(Effect::None),
        (Mnemonic::Add, Some(Register::RSP), _) => immediate().map(Effect::MoveStackPointer),
        (Mnemonic::Sub, Some(Register::RSP), _) => immediate().map(|bytes| Effect::MoveStackPointer(-bytes)),
        (Mnemonic::Lea, Some(Register::RSP), _) => address(Register::RSP)
            .map(Effect::MoveStackPointer)
            .or_else(|| address(Register::RBP).map(Effect::StackPointerFromFrame))
            .or(Some(Effect::SwitchStackPointer)),
        (Mnemonic::Lea, Some(Register::RBP), _) => address(Register::RSP).map(Effect::SetFramePointer),
        (Mnemonic::Xor, Some(Register::RBP | Register::EBP), other) if other == to_register => {
            Some(Effect::ClearFramePointer)
        }
        (Mnemonic::Mov, Some(Register::RBP), Some(Register::RSP)) => Some(Effect::SetFramePointer(0)),
        (Mnemonic::Mov, Some(Register::RSP), Some(Register::RBP)) => Some(Effect::StackPointerFromFrame(0)),
        (Mnemonic::Mov, Some(Register::RSP), _) => Some(Effect::SwitchStackPointer),
        (Mnemonic::Mov, None, Some(Register::RBP)) => on_stack(0, Register::RSP).map(Effect::SaveFramePointer),
        (Mnemonic::Mov, Some(Register::RBP), None) => on_stack(1, Register::RSP).map(Effect::RestoreFramePointer),
        _ => None,
    };
    told.unwrap_or_else(|| otherwise(instruction, info))
}

/// The effect of an instruction that is no usual part of a function's beginning or end.
fn otherwise(instruction: &Instruction, info: &mut InstructionInfoFactory) -> Effect {
    let moved = i64::from(instruction.stack_pointer_increment());
    let is_written = |used: &iced_x86::UsedRegister, register: Register| {
        let is_write = !matches!(used.access(), OpAccess::None | OpAccess::Read | OpAccess::CondRead);
        is_write && used.register().full_register() == register
    };
    let used: Vec<_> = info.info(instruction).used_registers().to_vec();
    let writes = |register| used.iter().any(|used| is_written(used, register));
    match (writes(Register::RSP), moved) {
        (true, 0) => Effect::LoseStackPointer,
        (true, bytes) => Effect::MoveStackPointer(bytes),
        _ if writes(Register::RBP) => Effect::LoseFramePointer,
        _ => Effect::None,
    }
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
            | OpKind::Immediate64
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effects(code: &[u8]) -> Vec<Effect> {
        steps(code, 0x1000).map(|step| step.effect).collect()
    }

    #[test]
    fn beginnings_and_ends_of_functions_are_understood() {
        // push rbp; mov rbp,rsp; push r12; sub rsp,0x88; mov [rsp+8],rbp; lea rsp,[rbp-8]; pop r12; leave; ret
        let code = [
            &[0x55][..],
            &[0x48, 0x89, 0xe5],
            &[0x41, 0x54],
            &[0x48, 0x81, 0xec, 0x88, 0, 0, 0],
            &[0x48, 0x89, 0x6c, 0x24, 0x08],
            &[0x48, 0x8d, 0x65, 0xf8],
            &[0x41, 0x5c],
            &[0xc9],
            &[0xc3],
        ]
        .concat();
        let expected = [
            Effect::PushFramePointer,
            Effect::SetFramePointer(0),
            Effect::MoveStackPointer(-8),
            Effect::MoveStackPointer(-0x88),
            Effect::SaveFramePointer(8),
            Effect::StackPointerFromFrame(-8),
            Effect::MoveStackPointer(8),
            Effect::LeaveFrame,
        ];
        let found = effects(&code);
        assert_eq!(found[..8], expected);
        assert_eq!(steps(&code, 0).last().unwrap().flow, Flow::Return);
    }

    #[test]
    fn other_writes_lose_the_register() {
        // and rsp,-16; mov ebp,edi; add rax,rbp
        assert_eq!(effects(&[0x48, 0x83, 0xe4, 0xf0]), [Effect::LoseStackPointer]);
        assert_eq!(effects(&[0x89, 0xfd]), [Effect::LoseFramePointer]);
        // xor ebp,ebp; xor ebp,eax
        assert_eq!(effects(&[0x31, 0xed, 0x31, 0xc5]), [Effect::ClearFramePointer, Effect::LoseFramePointer]);
        assert_eq!(effects(&[0x48, 0x01, 0xe8]), [Effect::None]);
    }

    #[test]
    fn a_stack_pointer_out_of_a_register_or_memory_may_be_of_another_stack() {
        // xchg rsp,rax; mov rsp,rbx; mov rsp,[rsi+0x38]; pop rsp; lea rsp,[rdi+8]
        for code in [&[0x48, 0x94][..], &[0x48, 0x89, 0xdc], &[0x48, 0x8b, 0x66, 0x38], &[0x5c], &[0x48, 0x8d, 0x67, 8]]
        {
            assert_eq!(effects(code), [Effect::SwitchStackPointer], "{code:x?}");
        }
        // sub rsp,rax; lea rsp,[rsp+rax]: room for an array.
        assert_eq!(effects(&[0x48, 0x29, 0xc4]), [Effect::LoseStackPointer]);
    }

    #[test]
    fn nothing_comes_after_an_instruction_that_a_program_may_not_execute() {
        assert_eq!(steps(&[0xf4, 0x90], 0).map(|step| step.flow).collect::<Vec<_>>(), [Flow::End, Flow::Next]);
    }

    #[test]
    fn the_end_of_a_signal_handler_is_known() {
        assert!(is_signal_return(&[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05, 0x90]));
        assert!(is_signal_return(&[0xb8, 15, 0, 0, 0, 0x0f, 0x05]));
        assert!(!is_signal_return(&[0xb8, 14, 0, 0, 0, 0x0f, 0x05]) && !is_signal_return(&[]));
    }

    #[test]
    fn a_return_address_is_one_that_follows_a_call() {
        // call rel32; call [rip+x]; call rax; call [rax+8]
        for call in [&[0xe8, 1, 2, 3, 4][..], &[0xff, 0x15, 1, 2, 3, 4], &[0xff, 0xd0], &[0xff, 0x50, 8]] {
            assert!(follows_call(&[&[0x90; 8], call].concat()), "{call:x?}");
            assert!(follows_call(call));
        }
        assert!(!follows_call(&[0x90; 8]) && !follows_call(&[0x48, 0x89, 0xe5, 0xc3]) && !follows_call(&[]));
    }
}
