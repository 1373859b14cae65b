//! Folded lines, `process;where;…;size bytes`: the memory of a process by kind, as flame graph tools read them. Live and free bytes
//! of an allocator are its own figures; a block of which some pages were never touched counts in full.

use std::io::{self, Write};

use super::largest;
use crate::{
    model::{
        heap::{Allocator, Heap, SizeClass},
        heap_report::{HeapProcess, HeapReport},
    },
    report::{folded::frame_name, words::heap::free_name},
};

/// Writes the memory of every process, of each allocator its `top` size classes.
///
/// # Errors
/// Where `out` refuses.
pub fn render(report: &HeapReport, top: Option<usize>, out: &mut dyn Write) -> io::Result<()> {
    for process in &report.processes {
        if let Some(heap) = &process.heap {
            lines(process, heap, top.unwrap_or(usize::MAX), out)?;
        }
    }
    Ok(())
}

fn lines(process: &HeapProcess, heap: &Heap, top: usize, out: &mut dyn Write) -> io::Result<()> {
    let root = frame_name(&process.program.comm);
    let mut line = |frames: &str, bytes: u64| match bytes {
        0 => Ok(()),
        _ => writeln!(out, "{root};{frames} {bytes}"),
    };
    for allocator in heap.allocators.iter().filter(|allocator| allocator.is_recognised()) {
        let name = frame_name(&allocator.name);
        for class in largest(allocator, top) {
            line(&format!("{name};live;{} B", class.size_bytes), class.live_bytes())?;
        }
        line(&format!("{name};live;other sizes"), not_shown(allocator, top))?;
        for free in &allocator.free {
            line(&format!("{name};free;{}", free_name(free.kind)), free.bytes)?;
        }
    }
    let resident = &heap.resident;
    let rest = [
        ("python", resident.python_bytes),
        ("files", resident.files_bytes),
        ("stacks", resident.stacks_bytes),
        ("other", resident.other_bytes),
    ];
    rest.into_iter().try_for_each(|(name, bytes)| line(name, bytes))
}

/// Live bytes in blocks of sizes that are not shown.
fn not_shown(allocator: &Allocator, top: usize) -> u64 {
    let shown = largest(allocator, top).into_iter().map(SizeClass::live_bytes).fold(0, u64::saturating_add);
    allocator.live_bytes.saturating_sub(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::heap::fixture;

    fn rendered(top: Option<usize>) -> String {
        let mut out = Vec::new();
        render(&fixture::report(), top, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_name_the_place_and_the_size_and_weigh_bytes() {
        let text = rendered(None);
        let first: Vec<&str> = text.lines().take(3).collect();
        assert_eq!(
            first,
            [
                "demo:1;glibc;live;104 B 1040000000",
                "demo:1;glibc;live;1048568 B 104856800",
                "demo:1;glibc;live;24 B 24000000"
            ]
        );
        assert!(text.contains("demo:1;glibc;free;bins 1073741824\n"), "{text}");
        assert!(text.ends_with("demo:1;files 20971520\ndemo:1;stacks 1048576\ndemo:1;other 10485760\n"), "{text}");
    }

    #[test]
    fn sizes_that_are_not_shown_are_one_line() {
        let text = rendered(Some(1));
        assert!(
            text.contains("demo:1;glibc;live;104 B 1040000000\ndemo:1;glibc;live;other sizes 128856800\n"),
            "{text}"
        );
        let sum = |text: &str| -> u64 {
            text.lines().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
        };
        assert_eq!(sum(&text), sum(&rendered(None)));
    }
}
