//! A hostile file that a target has mapped as code: its headers, symbols, notes, relocations and call frame information, the rows
//! inferred from its code, and the plan of where probes go in it.

use memtrace::{
    capture::{returns::Returns, survey::survey},
    process::image::Image,
    unwind::image_rows::{ImageRows, follows_call},
};

use super::cfi;
use crate::{Target, input::file_in_memory, seeds};

/// A whole ELF file.
pub const TARGET: Target = Target { name: "image", run, seeds: seeds::elf_files };

fn run(input: &[u8]) {
    let Some(image) = open(input) else { return };
    _ = image.debug_link();
    _ = image.folder();
    for offset in [0, 0x1000, input.len() as u64, u64::MAX] {
        _ = image.virtual_offset(offset);
        _ = image.virtual_offset_of_code(offset);
        _ = image.read_at(offset, 64);
    }
    _ = image.linked_functions();
    if let Ok(data) = image.data() {
        for offset in [0, 0x1000, u64::MAX, data.end()] {
            let begins_at = [data.variables.at(offset), data.thread_locals.at(offset)];
            assert!(begins_at.iter().flatten().all(|start| *start <= offset));
            _ = data.thread_local_offset(offset, offset.wrapping_sub(8));
        }
    }
    if let Ok(Some(section)) = image.frame_section() {
        cfi::compile(&section);
    }
    if let Ok((ImageRows { rows, .. }, _)) = ImageRows::of(&image) {
        assert!(rows.windows(2).all(|pair| pair[0].start < pair[1].start), "rows in no order");
    }
    for offset in [0, 1, 0x1000, u64::MAX] {
        _ = follows_call(&image, offset);
    }
    for returns in [Returns::Auto, Returns::Trampoline, Returns::Instruction] {
        let Ok(survey) = survey(&image, &[], returns) else { continue };
        for hook in survey.plans.iter().flat_map(|plan| &plan.hooks) {
            let end = hook.at.file_offset.saturating_add(hook.at.size);
            let offset = hook.placement.offset;
            assert!(offset == 0 || hook.at.file_offset + offset < end, "a probe beside its function: {hook:?}");
        }
    }
}

/// A file in memory with this content, as an image.
fn open(content: &[u8]) -> Option<Image> {
    Image::parse(file_in_memory(content)?, "/usr/lib/hostile.so".into()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_defines_an_allocator_whose_functions_are_hooked() {
        let hooks = |seed: &Vec<u8>| {
            let survey = survey(&open(seed)?, &[], Returns::Instruction).ok()?;
            survey.plans.iter().map(|plan| plan.hooks.len()).max()
        };
        assert!(seeds::elf_files().iter().filter_map(hooks).max() >= Some(4));
    }
}
