//! The kernel's own code, by what `/proc/kallsyms` listed when tracing began: later memtrace may not be privileged to read it.

use std::{collections::HashMap, fs, sync::Arc};

use memtrace_common::{kernel_memory::Source, stack::StackRecord};

use super::kernel_allocators::{is_left_out, own_frames};
use crate::{
    model::frame::{Frame, Function, ImageName, KERNEL_IMAGE, Place, Reason},
    process::kallsyms::{Kallsyms, KallsymsError},
};

/// A stack of the kernel's, from the allocator's caller outwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelStack {
    /// Return addresses, and whether outer frames are missing.
    Of(Vec<u64>, bool),
    /// Of what is not counted: pages that another allocator of the kernel's took, and hands out what lies in them, or that hold
    /// contents of files; addresses that something is mapped to.
    LeftOut,
}

/// Resolves the kernel's addresses, and remembers what it has resolved.
pub struct KernelSymbolizer {
    kallsyms: Option<Kallsyms>,
    /// Whether areas of vmalloc are counted by themselves, so that their pages are not.
    pub counts_areas: bool,
    /// By name; the kernel itself goes by [`KERNEL_IMAGE`].
    images: HashMap<String, Arc<ImageName>>,
    resolved: HashMap<u64, Arc<[Frame]>>,
}

impl KernelSymbolizer {
    /// Reads the kernel's symbols. Where that cannot be, it goes on without names, and the reason comes second.
    #[must_use]
    pub fn new() -> (Self, Option<KallsymsError>) {
        let (kallsyms, problem) = match Kallsyms::read() {
            Ok(kallsyms) => (Some(kallsyms), None),
            Err(problem) => (None, Some(problem)),
        };
        let build_id = fs::read("/sys/kernel/notes").ok().and_then(|notes| build_id(&notes));
        let image = Arc::new(ImageName { path: KERNEL_IMAGE.into(), build_id });
        let images = HashMap::from([(KERNEL_IMAGE.to_owned(), image)]);
        (Self { kallsyms, counts_areas: false, images, resolved: HashMap::new() }, problem)
    }

    /// Whether names are known, by which the pages of slabs can be told from others.
    #[must_use]
    pub fn has_names(&self) -> bool {
        self.kallsyms.is_some()
    }

    /// The code with which interrupts begin, from its first address to the one behind it: `asm_common_interrupt` and
    /// `asm_sysvec_…` of arch/x86/include/asm/idtentry.h, which stand together.
    #[must_use]
    pub fn interrupts(&self) -> Option<(u64, u64)> {
        self.kallsyms.as_ref()?.span(|name| {
            name.starts_with("asm_sysvec_") || name == "asm_common_interrupt" || name == "asm_spurious_interrupt"
        })
    }

    /// A stack without the frames of the tracer and of the allocator, unless it shows that what is allocated there does not count.
    #[must_use]
    pub fn stack(&self, record: &StackRecord, source: Source) -> KernelStack {
        let addresses = record.used();
        let own = match &self.kallsyms {
            None => 0,
            Some(kallsyms) => {
                let name = |address: &u64| kallsyms.locate(call(*address)).map_or("", |found| found.function);
                let names: Vec<&str> = addresses.iter().map(name).collect();
                if is_left_out(&names, source, self.counts_areas) {
                    return KernelStack::LeftOut;
                }
                own_frames(&names, source)
            }
        };
        KernelStack::Of(addresses.get(own..).unwrap_or_default().to_vec(), record.truncated != 0)
    }

    /// The frame at a return address.
    pub fn frames(&mut self, address: u64) -> Arc<[Frame]> {
        if let Some(frames) = self.resolved.get(&address) {
            return Arc::clone(frames);
        }
        let frames: Arc<[Frame]> = [self.frame(address)].into();
        self.resolved.insert(address, Arc::clone(&frames));
        frames
    }

    fn frame(&mut self, address: u64) -> Frame {
        let nowhere = |why| Frame { place: Place::Kernel { image: None, offset: address }, function: Err(why) };
        let Some(kallsyms) = &self.kallsyms else { return nowhere(Reason::KernelHidden) };
        let Some(found) = kallsyms.locate(call(address)) else { return nowhere(Reason::KernelUnlisted) };
        let name = found.module.unwrap_or(KERNEL_IMAGE);
        let image = match self.images.get(name) {
            Some(image) => Arc::clone(image),
            None => {
                let image = Arc::new(ImageName { path: name.to_owned(), build_id: None });
                self.images.insert(name.to_owned(), Arc::clone(&image));
                image
            }
        };
        // As everywhere, the return address itself.
        let place = Place::Kernel { image: Some(image), offset: found.offset + 1 };
        let function = Function { name: plain_name(found.function).to_owned(), file: None, line: None, inlined: false };
        Frame { place, function: Ok(function) }
    }
}

/// A return address may belong to the next function: the call is the instruction before it.
fn call(return_address: u64) -> u64 {
    return_address.wrapping_sub(1)
}

/// A name without what compilers append where they have changed a function or put a part of it elsewhere.
fn plain_name(name: &str) -> &str {
    const APPENDED: [&str; 4] = [".isra.", ".constprop.", ".part.", ".cold"];
    APPENDED.iter().filter_map(|appended| name.find(appended)).min().map_or(name, |end| &name[..end])
}

/// The GNU build id in a file of ELF notes, in hexadecimal: name size, contents size, type, then both, each in whole words.
fn build_id(notes: &[u8]) -> Option<String> {
    /// `NT_GNU_BUILD_ID` of `<elf.h>`.
    const BUILD_ID: u32 = 3;
    let mut rest = notes;
    loop {
        let word = |at: usize| Some(u32::from_ne_bytes(rest.get(at..at + 4)?.try_into().ok()?));
        let (name_size, size, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let contents = 12usize.checked_add(name_size.checked_next_multiple_of(4)?)?;
        let end = contents.checked_add(size)?;
        let id = rest.get(contents..end)?;
        if kind == BUILD_ID && rest.get(12..16)? == b"GNU\0" {
            return Some(id.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        rest = rest.get(end.checked_next_multiple_of(4)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compilers_append_is_no_part_of_a_name() {
        let names = ["new_slab.isra.0", "kmalloc_array.constprop.0", "kfree", "do_it.part.0.cold"].map(plain_name);
        assert_eq!(names, ["new_slab", "kmalloc_array", "kfree", "do_it"]);
    }

    #[test]
    fn a_build_id_is_found_among_other_notes() {
        let note = |name: &[u8], kind: u32, contents: &[u8]| {
            let sizes = [u32::try_from(name.len()).unwrap(), u32::try_from(contents.len()).unwrap(), kind];
            let mut note: Vec<u8> = sizes.iter().flat_map(|word| word.to_ne_bytes()).collect();
            for part in [name, contents] {
                note.extend(part);
                note.resize(note.len().next_multiple_of(4), 0);
            }
            note
        };
        let notes = [note(b"Linux\0", 1, b"6.18\0"), note(b"GNU\0", 3, &[0xab, 0x01])].concat();
        assert_eq!(build_id(&notes), Some("ab01".to_owned()));
        assert_eq!((build_id(&[]), build_id(&[0xff; 64])), (None, None));
    }

    #[test]
    fn this_kernels_own_addresses_have_names() {
        let (mut symbolizer, problem) = KernelSymbolizer::new();
        if let Some(problem) = problem {
            eprintln!("skipped: {problem}");
            return;
        }
        let (start, end) = symbolizer.interrupts().unwrap();
        assert!(end > start && end - start < 1 << 16);
        let frame = symbolizer.frames(start + 1)[0].clone();
        assert!(frame.function.unwrap().name.starts_with("asm_"));
        let unknown = symbolizer.frames(0x10)[0].clone();
        assert_eq!((unknown.function.unwrap_err(), unknown.place.kind()), (Reason::KernelUnlisted, "kernel"));
    }
}
