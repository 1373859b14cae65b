//! Sources of memory: each tells of one kind of memory, in a way of its own.
//!
//! In: the BPF side. Out: the tables that a source takes, what it attaches to the host, its part of each reading, and what nobody
//! can see of its kind. The places of stacks are no part of it: those are of the code of a target, or of the kernel's.

mod heap;
pub(crate) mod kernel;
mod mappings;
mod mmap_tracker;
mod pages;
mod source;

use std::collections::HashMap;

use memtrace_common::{
    ids::{ProcessSlot, SiteIndex},
    wire::mapping::MappingEvent,
};

use self::{heap::Heap, mappings::Mappings, pages::Pages};
pub(crate) use self::{mmap_tracker::end_of, source::Source};
use crate::{
    bpf::{Bpf, BpfError, Extras},
    model::{category::Category, figures::FigureKind, not_seen::NotSeen},
    profile::reading::Reading,
};

/// Sources that are read together.
pub(crate) struct Sources<B>(Vec<Box<dyn Source<B>>>);

impl Sources<Bpf> {
    /// The sources of programs' memory: of what their allocators have where `hooks` are placed, and of these categories. With
    /// `waits_for_growth`, what makes pages resident is followed once a process has grown.
    pub(crate) fn of_programs(categories: &[Category], hooks: bool, waits_for_growth: bool) -> Self {
        let mut sources: Vec<Box<dyn Source<Bpf>>> = Vec::new();
        if hooks {
            sources.push(Box::new(Heap));
        }
        if categories.iter().any(|category| category.is_pages()) {
            sources.push(Box::new(Pages::new(FigureKind::of(categories), waits_for_growth)));
        }
        if categories.contains(&Category::Mmap) {
            sources.push(Box::new(Mappings::default()));
        }
        Self(sources)
    }
}

impl<B> Source<B> for Sources<B> {
    fn tables(&self) -> Extras {
        self.0.iter().fold(Extras::default(), |sum, source| sum.plus(source.tables()))
    }

    fn attach(&mut self, bpf: &mut B) -> Result<(), BpfError> {
        self.0.iter_mut().try_for_each(|source| source.attach(bpf))
    }

    fn begin(&mut self, slot: ProcessSlot) {
        self.0.iter_mut().for_each(|source| source.begin(slot));
    }

    fn change(&mut self, event: &MappingEvent) {
        self.0.iter_mut().for_each(|source| source.change(event));
    }

    fn end(&mut self, slot: ProcessSlot) {
        self.0.iter_mut().for_each(|source| source.end(slot));
    }

    fn read<'a>(&'a self, bpf: &B, slot: ProcessSlot, reading: &mut Reading<'a>) -> Result<(), BpfError> {
        self.0.iter().try_for_each(|source| source.read(bpf, slot, reading))
    }

    fn oldest_born_ms(&self, bpf: &B, slots: &[ProcessSlot]) -> HashMap<SiteIndex, u64> {
        self.0.iter().flat_map(|source| source.oldest_born_ms(bpf, slots)).collect()
    }

    fn not_seen(&self, bpf: &B) -> Vec<NotSeen> {
        self.0.iter().flat_map(|source| source.not_seen(bpf)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::category::PageKind;

    #[test]
    fn each_source_adds_the_tables_that_it_takes() {
        let pages = PageKind::ALL.map(Category::Pages);
        let tables = |categories: &[Category]| Sources::of_programs(categories, true, false).tables();
        assert_eq!(tables(&[Category::Heap]), Extras::default());
        assert_eq!(tables(&pages), Extras { pages: true, ..Extras::default() });
        let all = [&[Category::Heap, Category::Mmap], &pages[..]].concat();
        assert_eq!(tables(&all), Extras { pages: true, address_spaces: true, page_frames: 0 });
    }
}
