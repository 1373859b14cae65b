//! Functions of allocators, and the words in which families are written.

use memtrace_common::steps::call::{CallRoles, Role};

/// The effect of a function on blocks.
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
    /// Its effect on blocks.
    pub effect: Effect,
    /// The meaning of its arguments, and its flags.
    pub roles: CallRoles,
}

/// An allocator, as a set of functions that share their blocks.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name in the report.
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
    /// The prefix of every function's name.
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

pub(super) const fn alloc(name: &'static str, roles: CallRoles) -> Function {
    Function { name, effect: Effect::Alloc, roles }
}

pub(super) const fn resize(name: &'static str, roles: CallRoles) -> Function {
    Function { name, effect: Effect::Resize, roles }
}

pub(super) const fn free(name: &'static str, roles: CallRoles) -> Function {
    Function { name, effect: Effect::Free, roles }
}

pub(super) const fn size(index: u8) -> CallRoles {
    CallRoles::NONE.with(Role::Size, index)
}

/// `count` elements of a size, the size after the count.
pub(super) const fn array(count: u8) -> CallRoles {
    CallRoles::NONE.with(Role::Count, count).with(Role::Size, count + 1)
}

pub(super) const fn block(index: u8) -> CallRoles {
    CallRoles::NONE.with(Role::Block, index)
}
