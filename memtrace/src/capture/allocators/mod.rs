//! Allocator families: which functions make and free blocks, as data.
//!
//! A family is recognised by what an image defines, never by its file name. Another function is another
//! row; another prefix of the same functions another [`Variant`]; another kind of argument another role
//! in `memtrace_common::call`.

pub mod custom;
mod jemalloc;
mod libc;
mod mimalloc;
mod standard;
mod tcmalloc;

use memtrace_common::call::{CallRoles, Role};

/// What a function does to blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Frees a block.
    Free,
    /// Resizes a block, or frees it, or makes one.
    Resize,
    /// Hands out a new block.
    Alloc,
}

/// A function of an allocator.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// Its symbol, without its variant's prefix.
    pub name: &'static str,
    /// What it does.
    pub effect: Effect,
    /// What its arguments mean, and what is special about it.
    pub roles: CallRoles,
}

/// An allocator, as a set of functions that share their blocks.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// What the report calls it.
    pub name: &'static str,
    /// Functions, without prefix, that call no other of those that are hooked: where their return is of no interest,
    /// it need not be seen. The commonest, of which that is certain.
    pub leaves: &'static [&'static str],
    /// Whether its functions are known to return on the stack on which they were called, and in the same thread.
    pub returns_where_called: bool,
    /// The names under which it comes.
    pub variants: &'static [Variant],
}

/// The functions of a family under one prefix.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// What stands before every function's name.
    pub prefix: &'static str,
    /// Symbols of which an image must define one to have this variant.
    pub markers: &'static [&'static str],
    /// The functions to hook, as far as the image has them.
    pub functions: &'static [&'static [Function]],
}

impl Variant {
    /// The functions with their whole names.
    pub fn functions(&self) -> impl Iterator<Item = (String, &'static Function)> {
        let prefix = self.prefix;
        let functions = self.functions.iter().copied().flatten();
        functions.map(move |function| (format!("{prefix}{}", function.name), function))
    }
}

const fn alloc(name: &'static str, roles: CallRoles) -> Function {
    Function { name, effect: Effect::Alloc, roles }
}

const fn resize(name: &'static str, roles: CallRoles) -> Function {
    Function { name, effect: Effect::Resize, roles }
}

const fn free(name: &'static str, roles: CallRoles) -> Function {
    Function { name, effect: Effect::Free, roles }
}

const fn size(index: u8) -> CallRoles {
    CallRoles::NONE.with(Role::Size, index)
}

/// `count` elements of a size, the size after the count.
const fn array(count: u8) -> CallRoles {
    CallRoles::NONE.with(Role::Count, count).with(Role::Size, count + 1)
}

const fn block(index: u8) -> CallRoles {
    CallRoles::NONE.with(Role::Block, index)
}

/// Every family that memtrace knows. Where an image has several, the earlier one takes a function that
/// both name: those that define libc's functions in its place come before libc, and what only looks like
/// an allocator comes last.
///
/// `aligned_alloc` and `memalign`, or `free` and `cfree`, may be one place under two names: whoever
/// attaches does so once a place.
pub const FAMILIES: &[Family] =
    &[jemalloc::JEMALLOC, tcmalloc::TCMALLOC, mimalloc::MIMALLOC, libc::MUSL, libc::GLIBC, libc::OTHER];

#[cfg(test)]
mod tests {
    use super::*;
    use memtrace_common::call::Trait;

    fn functions() -> impl Iterator<Item = &'static Function> {
        FAMILIES
            .iter()
            .flat_map(|family| family.variants)
            .flat_map(|variant| variant.functions.iter().copied().flatten())
    }

    #[test]
    fn every_function_has_the_roles_that_its_effect_needs() {
        for function in functions() {
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
    fn what_is_special_fits_the_effect() {
        for function in functions() {
            let of = |special, effect| !function.roles.is(special) || function.effect == effect;
            assert!(of(Trait::HandsOn, Effect::Free), "{}", function.name);
            assert!(of(Trait::InPlace, Effect::Resize), "{}", function.name);
            assert!(of(Trait::FreesOnFailure, Effect::Resize), "{}", function.name);
            // A resize that throws would have to put back what it took out, and nothing sees it do so.
            assert!(of(Trait::MayThrow, Effect::Alloc), "{}", function.name);
        }
    }

    #[test]
    fn names_are_unique_within_a_variant() {
        for variant in FAMILIES.iter().flat_map(|family| family.variants) {
            let mut names: Vec<_> = variant.functions().map(|(name, _)| name).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{:?}", variant.markers);
        }
    }
}
