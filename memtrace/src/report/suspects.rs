//! The frame of a stack that is to blame.

use super::allocator_frames::is_plumbing;
use crate::model::{
    frame::{Frame, Place, Stack},
    report::Process,
};

/// The frame that names who allocates, or frees, to a person: the first that is neither a standard library's nor in an image
/// that defines an allocator (`strdup` says little); the first of all where there is none.
#[must_use]
pub fn culprit<'a>(process: &Process, stack: &'a Stack) -> Option<&'a Frame> {
    let is_allocators = |frame: &Frame| match &frame.place {
        Place::Image { image, .. } => {
            process.figures.allocators().iter().any(|allocator| allocator.image == image.path)
        }
        Place::Jit | Place::Address(_) | Place::Kernel { .. } => false,
    };
    let is_own = |frame: &&Frame| !is_plumbing(frame) && !is_allocators(frame);
    stack.frames().find(is_own).or_else(|| stack.frames().next())
}

/// A frame in one line: the function, with file and line where they are known.
#[must_use]
pub fn place(frame: &Frame) -> String {
    match frame.source() {
        Some(source) => format!("{} {source}", frame.label()),
        None => frame.label(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn a_site_is_named_by_the_first_frame_that_is_the_programs_own() {
        let mut report = fixture::report();
        let process = &mut report.processes[0];
        assert_eq!(place(culprit(process, &process.sites[0].stack).unwrap()), "keep demo.c:30");
        // All of it lies there, as in a static program.
        fixture::blocks(process).allocators[0].image = "/usr/bin/demo".into();
        assert_eq!(place(culprit(process, &process.sites[0].stack).unwrap()), "keep demo.c:30");
    }
}
