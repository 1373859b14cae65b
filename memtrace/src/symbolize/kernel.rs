//! The kernel's own code, by what `/proc/kallsyms` listed when tracing began: later memtrace may not be privileged to read it.

use std::{fs, iter, sync::Arc};

use memtrace_common::wire::stack::{Ending, StackRecord};

use super::kernel_allocators::{is_left_out, own_frames};
use crate::{
    model::{
        category::KernelSource,
        code_place::CodePlace,
        frame::{Frame, Function, ImageName, KERNEL_IMAGE, Place, Reason},
        truncation::Truncation,
    },
    process::kallsyms::{Kallsyms, KallsymsError},
};

/// A stack of the kernel's, from the allocator's caller outwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelStack {
    /// Its places, and why outer frames are missing, where they are.
    Of(Vec<CodePlace>, Option<Truncation>),
    /// A stack that is not counted: of pages that another allocator of the kernel's took and hands out in parts, or that hold
    /// contents of files; addresses that something is mapped to.
    LeftOut,
}

/// The kernel's functions, and what images they are in.
pub struct KernelCode {
    kallsyms: Option<Kallsyms>,
    /// The kernel and its modules, by their index in places.
    images: Vec<Arc<ImageName>>,
}

impl KernelCode {
    /// Reads the kernel's symbols. Where that cannot be, it goes on without names, and the reason comes second.
    #[must_use]
    pub fn read() -> (Self, Option<KallsymsError>) {
        let (kallsyms, problem) = match Kallsyms::read() {
            Ok(kallsyms) => (Some(kallsyms), None),
            Err(problem) => (None, Some(problem)),
        };
        let build_id = fs::read("/sys/kernel/notes").ok().and_then(|notes| build_id(&notes));
        let kernel = ImageName { path: KERNEL_IMAGE.into(), build_id };
        let modules = kallsyms.iter().flat_map(|kallsyms| kallsyms.images().skip(1));
        let modules = modules.map(|module| ImageName { path: module.to_owned(), build_id: None });
        let images = iter::once(kernel).chain(modules).map(Arc::new).collect();
        (Self { kallsyms, images }, problem)
    }

    /// Whether names are known, by which the pages of slabs can be told from others.
    #[must_use]
    pub fn has_names(&self) -> bool {
        self.kallsyms.is_some()
    }

    /// The kernel and its modules, by their index in places.
    #[must_use]
    pub fn images(&self) -> &[Arc<ImageName>] {
        &self.images
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
    /// With `counts_areas`, areas of vmalloc are counted by themselves, so that their pages are not.
    #[must_use]
    pub fn stack(&self, record: &StackRecord, source: KernelSource, counts_areas: bool) -> KernelStack {
        let addresses = record.used();
        let own = match &self.kallsyms {
            None => 0,
            Some(kallsyms) => {
                let name = |address: &u64| kallsyms.locate(call(*address)).map_or("", |found| found.function);
                let names: Vec<&str> = addresses.iter().map(name).collect();
                if is_left_out(&names, source, counts_areas) {
                    return KernelStack::LeftOut;
                }
                own_frames(&names, source)
            }
        };
        let callers = addresses.get(own..).unwrap_or_default();
        let truncation = (record.ending() != Ending::FirstFrame).then_some(Truncation::TooDeep);
        KernelStack::Of(callers.iter().map(|address| self.place(*address)).collect(), truncation)
    }

    /// The place of a return address.
    fn place(&self, address: u64) -> CodePlace {
        let Some(kallsyms) = &self.kallsyms else { return CodePlace::Address(address, Reason::KernelHidden) };
        match kallsyms.locate(call(address)) {
            // As everywhere, the return address itself.
            Some(found) => CodePlace::Kernel { image: found.image, offset: found.offset + 1 },
            None => CodePlace::Address(address, Reason::KernelUnlisted),
        }
    }

    /// The frame at a place in one of its images.
    #[must_use]
    pub fn frame(&self, image: usize, offset: u64) -> Frame {
        let function =
            self.function(image, offset).map(|name| Function { name, file: None, line: None, inlined: false });
        let place = Place::Kernel { image: self.images.get(image).cloned(), offset };
        Frame { place, function: function.ok_or(Reason::KernelUnlisted) }
    }

    fn function(&self, image: usize, offset: u64) -> Option<String> {
        let kallsyms = self.kallsyms.as_ref()?;
        let found = kallsyms.locate(call(kallsyms.address(image, offset)?))?;
        Some(plain_name(found.function).to_owned())
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
        let (code, problem) = KernelCode::read();
        if let Some(problem) = problem {
            eprintln!("skipped: {problem}");
            return;
        }
        let (start, end) = code.interrupts().unwrap();
        assert!(end > start && end - start < 1 << 16);
        let CodePlace::Kernel { image: 0, offset } = code.place(start + 1) else {
            panic!("{:?}", code.place(start + 1))
        };
        let frame = code.frame(0, offset);
        assert!(frame.function.unwrap().name.starts_with("asm_"));
        assert_eq!(frame.place.in_image(), (Some(&code.images()[0]), offset));
        assert_eq!(code.place(0x10), CodePlace::Address(0x10, Reason::KernelUnlisted));
    }
}
