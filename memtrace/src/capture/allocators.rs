//! Allocator families: which functions make and free blocks, as data.
//!
//! A family is recognised by what an image defines, never by its file name. Another function is another
//! row; another kind of argument is another role in `memtrace_common::call`.

use memtrace_common::call::{CallRoles, Role};

/// What a function does to blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Hands out a new block.
    Alloc,
    /// Resizes a block, or frees it, or makes one.
    Resize,
    /// Frees a block.
    Free,
}

/// A function of an allocator.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// Its symbol.
    pub name: &'static str,
    /// What it does.
    pub effect: Effect,
    /// What its arguments mean.
    pub roles: CallRoles,
}

/// An allocator, as a set of functions that share their blocks.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// What the report calls it.
    pub name: &'static str,
    /// Symbols of which an image must define one to be this allocator.
    pub markers: &'static [&'static str],
    /// The functions to hook, as far as the image has them.
    pub functions: &'static [Function],
}

impl Family {
    /// Every symbol that matters for this family.
    pub fn symbols(&self) -> impl Iterator<Item = &'static str> {
        self.markers.iter().copied().chain(self.functions.iter().map(|function| function.name))
    }
}

const fn function(name: &'static str, effect: Effect, roles: CallRoles) -> Function {
    Function { name, effect, roles }
}

const SIZE_0: CallRoles = CallRoles::NONE.with(Role::Size, 0);
const SIZE_1: CallRoles = CallRoles::NONE.with(Role::Size, 1);
const BLOCK_0: CallRoles = CallRoles::NONE.with(Role::Block, 0);

/// Every family that memtrace knows.
///
/// `aligned_alloc` and `memalign`, or `free` and `cfree`, may be one place under two names: whoever
/// attaches does so once a place.
pub const FAMILIES: &[Family] = &[GLIBC, JEMALLOC];

const GLIBC: Family = Family {
    name: "glibc",
    markers: &["gnu_get_libc_version", "__libc_malloc"],
    functions: &[
        function("malloc", Effect::Alloc, SIZE_0),
        function("calloc", Effect::Alloc, SIZE_1.with(Role::Count, 0)),
        function("realloc", Effect::Resize, SIZE_1.with(Role::Block, 0)),
        function("reallocarray", Effect::Resize, BLOCK_0.with(Role::Count, 1).with(Role::Size, 2)),
        function("posix_memalign", Effect::Alloc, CallRoles::NONE.with(Role::Output, 0).with(Role::Size, 2)),
        function("aligned_alloc", Effect::Alloc, SIZE_1),
        function("memalign", Effect::Alloc, SIZE_1),
        function("valloc", Effect::Alloc, SIZE_0),
        function("pvalloc", Effect::Alloc, SIZE_0),
        function("free", Effect::Free, BLOCK_0),
        function("cfree", Effect::Free, BLOCK_0),
    ],
};

/// jemalloc in place of libc's malloc, as redis and others link it. (Its own interface, `mallocx` and kin,
/// is not hooked yet.)
const JEMALLOC: Family = Family {
    name: "jemalloc",
    markers: &["mallctl"],
    functions: &[
        function("malloc", Effect::Alloc, SIZE_0),
        function("calloc", Effect::Alloc, SIZE_1.with(Role::Count, 0)),
        function("realloc", Effect::Resize, SIZE_1.with(Role::Block, 0)),
        function("posix_memalign", Effect::Alloc, CallRoles::NONE.with(Role::Output, 0).with(Role::Size, 2)),
        function("aligned_alloc", Effect::Alloc, SIZE_1),
        function("memalign", Effect::Alloc, SIZE_1),
        function("valloc", Effect::Alloc, SIZE_0),
        function("free", Effect::Free, BLOCK_0),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_has_the_roles_that_its_effect_needs() {
        for function in FAMILIES.iter().flat_map(|family| family.functions) {
            let has = |role| function.roles.index_of(role).is_some();
            let (size, block) = match function.effect {
                Effect::Alloc => (true, false),
                Effect::Resize => (true, true),
                Effect::Free => (false, true),
            };
            assert_eq!((has(Role::Size), has(Role::Block)), (size, block), "{}", function.name);
        }
    }

    #[test]
    fn names_are_unique_within_a_family() {
        for family in FAMILIES {
            let mut names: Vec<_> = family.functions.iter().map(|function| function.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), family.functions.len(), "{}", family.name);
        }
    }
}
