//! The figures of a jemalloc: what of it is live, free by kind, resident, and could be given back.

use std::collections::BTreeMap;

use super::{
    super::{
        bytes::{Reader, Stop},
        found::ResidentPart,
        residency::Residency,
    },
    blocks::Extents,
    extent::{Extent, PAGE_BYTES, State},
};
use crate::model::heap::{Allocator, Arena, Free, FreeKind, SizeClass};

/// The sums so far.
#[derive(Debug, Default)]
pub(super) struct Account {
    arenas: Vec<Arena>,
    sizes: BTreeMap<u64, u64>,
    run_bytes: u64,
    cached_bytes: u64,
    span_bytes: u64,
    fragmented_bytes: u64,
    pub(super) resident: ResidentPart,
    pub(super) swapped_bytes: u64,
    residency: Residency,
}

impl Account {
    /// Adds all extents.
    pub(super) fn add(&mut self, reader: &mut Reader<'_>, extents: &Extents) -> Result<(), Stop> {
        for extent in extents.iter() {
            reader.budget().step()?;
            self.add_area(reader, extent.base, extent.end())?;
            if extent.state == State::Active {
                self.add_blocks(reader, extent)?;
            } else {
                self.add_free(reader, extent)?;
            }
        }
        // Of what slabs say is free, nothing is cached.
        for bytes in extents.cached() {
            self.cached_bytes += bytes;
            self.run_bytes = self.run_bytes.saturating_sub(bytes);
        }
        Ok(())
    }

    /// Adds memory of which all that is resident counts.
    pub(super) fn add_area(&mut self, reader: &mut Reader<'_>, start: u64, end: u64) -> Result<(), Stop> {
        let area = self.residency.whereabouts(reader, start, end)?;
        self.resident.area_bytes += area.resident_bytes;
        self.swapped_bytes += area.swapped_bytes;
        Ok(())
    }

    fn add_free(&mut self, reader: &mut Reader<'_>, extent: &Extent) -> Result<(), Stop> {
        let bytes = self.residency.bytes(reader, extent.base, extent.end())?;
        self.span_bytes += bytes;
        self.add_to_arena(extent.arena, Arena { free_bytes: bytes, ..Arena::default() });
        match extent.state {
            State::Dirty | State::Muzzy => self.resident.returnable_bytes += bytes,
            _ => self.resident.free_bytes += bytes,
        }
        Ok(())
    }

    fn add_blocks(&mut self, reader: &mut Reader<'_>, extent: &Extent) -> Result<(), Stop> {
        let live = extent.live_blocks();
        let free_bytes = u64::from(extent.blocks).saturating_sub(live).saturating_mul(extent.block_bytes);
        self.run_bytes += free_bytes;
        let live_bytes = live.saturating_mul(extent.block_bytes);
        self.add_to_arena(extent.arena, Arena { live_objects: live, live_bytes, free_bytes });
        if live > 0 {
            *self.sizes.entry(extent.block_bytes).or_default() += live;
        }
        if free_bytes > 0 {
            self.add_free_blocks(reader, extent)?;
        }
        Ok(())
    }

    /// Free blocks by the pages that they are on: resident or not, with live ones or not.
    fn add_free_blocks(&mut self, reader: &mut Reader<'_>, extent: &Extent) -> Result<(), Stop> {
        let mut page = (extent.base, 0_u64, false);
        for (address, is_live) in extent.blocks() {
            let (mut at, end) = (address, address + extent.block_bytes);
            while at < end {
                reader.budget().step()?;
                let first = at & !(PAGE_BYTES - 1);
                let next = (first + PAGE_BYTES).min(end);
                if first != page.0 {
                    self.add_page(reader, page)?;
                    page = (first, 0, false);
                }
                if is_live {
                    page.2 = true;
                } else {
                    page.1 += next - at;
                }
                at = next;
            }
        }
        self.add_page(reader, page)
    }

    fn add_page(
        &mut self,
        reader: &mut Reader<'_>,
        (start, free_bytes, has_live): (u64, u64, bool),
    ) -> Result<(), Stop> {
        if free_bytes > 0 && self.residency.bytes(reader, start, start + PAGE_BYTES)? > 0 {
            self.resident.free_bytes += free_bytes;
            self.fragmented_bytes += if has_live { free_bytes } else { 0 };
        }
        Ok(())
    }

    fn add_to_arena(&mut self, index: u16, more: Arena) {
        let index = usize::from(index);
        if index >= self.arenas.len() {
            self.arenas.resize(index + 1, Arena::default());
        }
        if let Some(arena) = self.arenas.get_mut(index) {
            *arena += more;
        }
    }

    /// All figures.
    pub(super) fn finish(self) -> (Allocator, ResidentPart) {
        let kinds = [
            (FreeKind::ThreadCache, self.cached_bytes),
            (FreeKind::Run, self.run_bytes),
            (FreeKind::Span, self.span_bytes),
        ];
        let allocator = Allocator {
            live_bytes: self.arenas.iter().map(|arena| arena.live_bytes).sum(),
            live_objects: self.arenas.iter().map(|arena| arena.live_objects).sum(),
            free: kinds.into_iter().filter(|(_, bytes)| *bytes > 0).map(|(kind, bytes)| Free { kind, bytes }).collect(),
            returnable_bytes: self.resident.returnable_bytes,
            fragmented_bytes: self.fragmented_bytes,
            resident_bytes: self.resident.area_bytes,
            arenas: self.arenas,
            size_classes: self.sizes.into_iter().map(|(bytes, count)| SizeClass::new(bytes, count)).collect(),
            ..Allocator::default()
        };
        (allocator, self.resident)
    }
}
