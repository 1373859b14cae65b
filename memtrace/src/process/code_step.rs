//! One instruction, as far as unwinding needs to know it: the same for each architecture.

/// The effect of an instruction on the stack pointer and the frame pointer. Amounts are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// None.
    None,
    /// The stack pointer moves by so much; negative where the stack grows.
    MoveStackPointer(i64),
    /// The frame pointer is pushed.
    PushFramePointer,
    /// The frame pointer is popped.
    PopFramePointer,
    /// The frame pointer is stored so far above the stack pointer.
    SaveFramePointer(i64),
    /// The frame pointer is loaded from so far above the stack pointer.
    RestoreFramePointer(i64),
    /// The frame pointer becomes the stack pointer and so much.
    SetFramePointer(i64),
    /// The stack pointer becomes the frame pointer and so much.
    StackPointerFromFrame(i64),
    /// The stack pointer becomes the frame pointer, which then is popped.
    LeaveFrame,
    /// The stack pointer becomes something that is not known, on the same stack.
    LoseStackPointer,
    /// The stack pointer is taken from a register or from memory: of another stack maybe.
    SwitchStackPointer,
    /// The frame pointer becomes zero.
    ClearFramePointer,
    /// The frame pointer becomes something else.
    LoseFramePointer,
}

/// Where the control goes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// To the next instruction.
    Next,
    /// To an address.
    Jump(u64),
    /// To an address, or to the next instruction.
    Branch(u64),
    /// To a function, whose address is known or not, and then to the next instruction, unless the function does not return.
    Call(Option<u64>),
    /// To an address that a register or a table has.
    IndirectJump,
    /// To the caller.
    Return,
    /// Nowhere.
    End,
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodeStep {
    /// Its address.
    pub(crate) at: u64,
    /// One past its last byte.
    pub(crate) next: u64,
    /// Its effect.
    pub(crate) effect: Effect,
    /// Where the control goes.
    pub(crate) flow: Flow,
    /// The address that it takes, relative to itself: of a function maybe.
    pub(crate) refers_to: Option<u64>,
}
