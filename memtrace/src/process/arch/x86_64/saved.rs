//! The registers that the kernel has saved of a thread: where it holds those that are not among the others, and which of them a
//! program may still need.

use memtrace_common::{
    arch::{THREAD_BASES, saved_registers as place},
    wire::registers::ThreadRegisters,
};

/// The fields of `struct thread_struct` that hold the bases of memory that only the thread has.
pub(crate) const BASES: [&str; THREAD_BASES] = ["fsbase", "gsbase"];

/// The part of a thread's vector state (`xfeatures` of `struct xstate_header`) that holds the vectors: all zeros while its bit is not
/// set, whatever lies there (Intel SDM 1, 13.4.2: XSTATE_BV).
const SSE: u64 = 1 << 1;

/// Where the kernel holds the vector registers of a thread, in bytes; all 0 where that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VectorPlace {
    /// In `task_struct`: the pointer to their state.
    pub(crate) state: u32,
    /// The vectors, in the state.
    pub(crate) vectors: u32,
    /// The word that says which parts of the state are in use.
    pub(crate) in_use: u32,
}

/// Where they lie, by the fields and the sizes of the kernel's structures.
///
/// # Errors
/// Where it has other structures (as before Linux 5.16, whose `struct fpu` has the state inside).
pub(crate) fn vectors<E>(
    field: &impl Fn(&'static str, &'static str) -> Result<u32, E>,
    size: &impl Fn(&'static str) -> Result<u32, E>,
) -> Result<VectorPlace, E> {
    // Since Linux 6.16 `struct fpu` follows the task (`x86_task_fpu` of arch/x86/include/asm/processor.h).
    let fpu = match field("thread_struct", "fpu") {
        Ok(offset) => field("task_struct", "thread")? + offset,
        Err(_) => size("task_struct")?,
    };
    let registers = field("fpstate", "regs")?;
    let in_use = field("xregs_state", "header")? + field("xstate_header", "xfeatures")?;
    Ok(VectorPlace {
        state: fpu + field("fpu", "fpstate")?,
        vectors: registers + field("fxregs_state", "xmm_space")?,
        in_use: registers + in_use,
    })
}

/// The stack pointer of a thread whose registers were copied, and every word of them that its code may still need. Nothing and none
/// for a thread that never runs the program's code, as those of io_uring (`copy_thread` of arch/x86/kernel/process.c).
pub(crate) fn copied_registers(thread: &ThreadRegisters) -> (Option<u64>, Vec<u64>) {
    let of = |index: usize| thread.saved.get(index).copied().unwrap_or(0);
    let stack_pointer = of(place::SP);
    if stack_pointer == 0 && of(place::PC) == 0 {
        return (None, Vec::new());
    }
    let mut words = vec![stack_pointer];
    words.extend(place::KEPT.into_iter().chain(place::ARGUMENTS).map(of));
    words.extend(thread.bases);
    // In a system call nobody needs the others any more: the call itself overwrites some, and no function leaves vectors to its
    // caller as they were.
    if of(place::SYSTEM_CALL).cast_signed() < 0 {
        words.extend(place::OVERWRITTEN.map(of));
        if thread.vectors_in_use & SSE != 0 {
            words.extend(thread.vectors);
        }
    }
    (Some(stack_pointer), words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use memtrace_common::arch::{SAVED_REGISTERS, VECTOR_WORDS};

    /// A thread each of whose words says where it stands.
    fn thread(system_call: i64) -> ThreadRegisters {
        let mut saved = [0; SAVED_REGISTERS];
        saved.iter_mut().zip(1000..).for_each(|(word, index)| *word = index);
        saved[place::SYSTEM_CALL] = system_call.cast_unsigned();
        let mut vectors = [0; VECTOR_WORDS];
        vectors.iter_mut().zip(2000..).for_each(|(word, index)| *word = index);
        ThreadRegisters { tid: 7, state: 0, saved, bases: [3000, 3001], vectors, vectors_in_use: 7 }
    }

    #[test]
    fn in_a_system_call_the_kept_registers_the_arguments_and_the_bases_count() {
        let (stack_pointer, mut words) = copied_registers(&thread(232));
        assert_eq!(stack_pointer, Some(1019));
        words.sort_unstable();
        let expected = [0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 14, 19].map(|index| 1000 + index);
        assert_eq!(words, [&expected[..], &[3000, 3001]].concat());
    }

    #[test]
    fn of_an_interrupted_thread_all_registers_count() {
        let (_, words) = copied_registers(&thread(-1));
        let has = |word: u64| words.contains(&word);
        assert!((1000..1015).all(has) && (2000..2032).all(has) && has(3000) && has(1019), "{words:?}");
        // The system call's number, the program counter, segments and flags lead to no block.
        assert_eq!(words.len(), 15 + 1 + 2 + VECTOR_WORDS);
        let unused = ThreadRegisters { vectors_in_use: 1, ..thread(-1) };
        assert!(!copied_registers(&unused).1.contains(&2000));
    }

    #[test]
    fn threads_of_the_kernel_alone_have_no_words() {
        let mut worker = thread(-1);
        (worker.saved[place::SP], worker.saved[place::PC]) = (0, 0);
        assert_eq!(copied_registers(&worker), (None, Vec::new()));
    }
}
