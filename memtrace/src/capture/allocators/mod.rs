//! Allocator families: which functions make and free blocks, as data.
//!
//! A family is recognised by what an image defines, never by its file name. Another function is another
//! row; another prefix of the same functions another [`Variant`]; another kind of argument another role
//! in `memtrace_common::steps::call`.

pub mod custom;
mod function;
mod jemalloc;
mod libc;
mod mimalloc;
mod standard;
mod tcmalloc;

pub use self::function::{Effect, Family, Function, Variant};

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
    use memtrace_common::steps::call::{CallFlag, Role};

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
            assert!(of(CallFlag::HandsOn, Effect::Free), "{}", function.name);
            assert!(of(CallFlag::HandsOnWithHeader, Effect::Free), "{}", function.name);
            assert!(of(CallFlag::InPlace, Effect::Resize), "{}", function.name);
            assert!(of(CallFlag::FreesOnFailure, Effect::Resize), "{}", function.name);
            // A resize that throws would have to put back what it took out, and nothing sees it do so.
            assert!(of(CallFlag::MayThrow, Effect::Alloc), "{}", function.name);
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
