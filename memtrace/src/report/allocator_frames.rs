//! Frames between a program's own code and its allocator's: what a reader need not see to know who allocates or frees.

use std::{collections::HashSet, sync::LazyLock};

use crate::{
    capture::allocators::FAMILIES,
    model::frame::{Frame, Stack},
};

/// The functions of every family of allocators, under each of its prefixes.
static FUNCTIONS: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let variants = FAMILIES.iter().flat_map(|family| family.variants);
    variants.flat_map(|variant| variant.functions().map(|(name, _)| name)).collect()
});

/// How names begin of what allocators and the standard libraries of C++ and Rust put on top of them.
const BEGINNINGS: [&str; 14] = [
    "__libc_",
    "__GI_",
    "operator new",
    "operator delete",
    "std::",
    "void std::",
    "__gnu_cxx::",
    "core::",
    "alloc::",
    "<alloc::",
    "<core::",
    "<std::",
    "hashbrown::",
    "__rust",
];

/// Whose trait it is that Rust implements for a type: `<T as alloc::…>`.
const TRAITS_OF: [&str; 3] = [" as alloc::", " as core::", " as std::"];

/// Whether a frame is one of these.
pub(super) fn is_plumbing(frame: &Frame) -> bool {
    let Ok(function) = &frame.function else { return false };
    let name = function.name.as_str();
    // It calls main, and is no part of an allocator.
    name != "__libc_start_main_impl"
        && (FUNCTIONS.contains(name)
            || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
            || name.starts_with('<') && TRAITS_OF.iter().any(|library| name.contains(library)))
}

/// How many frames of a stack come before the first that is not. 0 where all are: then they are what there is.
pub(super) fn leading(stack: &Stack) -> usize {
    stack.frames().position(|frame| !is_plumbing(frame)).unwrap_or(0)
}

/// The first frame of the program's own.
pub(super) fn first_own(stack: &Stack) -> Option<&Frame> {
    stack.frames().nth(leading(stack))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::frame::{Function, Place, Reason};

    fn stack(names: &[&str]) -> Stack {
        let frame = |name: &&str| Frame {
            place: Place::Address(0),
            function: match *name {
                "" => Err(Reason::Unmapped),
                name => Ok(Function { name: name.into(), file: None, line: None, inlined: false }),
            },
        };
        [Arc::from(names.iter().map(frame).collect::<Vec<_>>())].into_iter().collect()
    }

    #[test]
    fn the_programs_own_frames_come_after_those_of_allocators_and_standard_libraries() {
        let named = |names: &[&str]| first_own(&stack(names)).map(Frame::label).unwrap_or_default();
        assert_eq!(named(&["alloc::alloc::alloc", "<alloc::boxed::Box<T>>::new", "keep", "main"]), "keep");
        assert_eq!(named(&["<T as alloc::slice::ToVec>::to_vec", "<Cache as Store>::keep"]), "<Cache as Store>::keep");
        assert_eq!(named(&["free", "operator delete(void*)", "conn_close(int)"]), "conn_close(int)");
        assert_eq!(named(&["mi_free", "drop_session"]), "drop_session");
        assert_eq!(named(&["tc_deletearray_sized", "drop_rows"]), "drop_rows");
        assert_eq!(named(&["_rjem_sdallocx", "<alloc::vec::Vec<T>>::drop", "evict"]), "evict");
        assert_eq!(named(&["malloc_everything_of_mine"]), "malloc_everything_of_mine");
        assert_eq!(named(&["mi_process_message"]), "mi_process_message");
        assert_eq!(leading(&stack(&["", "main"])), 0);
    }
}
