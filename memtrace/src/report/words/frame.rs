//! Why a place in code has no function.

use crate::model::frame::Reason;

/// Why a place has no function.
#[must_use]
pub fn unresolved(reason: Reason) -> &'static str {
    match reason {
        Reason::Unmapped => "no mapping holds this address",
        Reason::Replaced => "what is mapped at this address changes",
        Reason::Anonymous => "code in anonymous memory",
        Reason::Jit => "code made at run time",
        Reason::ImageUnreadable => "the image cannot be read",
        Reason::NoSymbol => "the image has no symbol here",
        Reason::ReaderEnded => "the process that reads symbols ended over this image",
        Reason::ReaderLate => "the process that reads symbols took too long for this image",
        Reason::NoReader => "the process that reads symbols does not run",
        Reason::KernelHidden => "the kernel hides its symbols (kernel.kptr_restrict)",
        Reason::KernelUnlisted => "/proc/kallsyms listed no function here when tracing began",
    }
}
