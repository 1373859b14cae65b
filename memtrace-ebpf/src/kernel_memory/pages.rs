//! The kernel's own memory: whole pages.
//!
//! A block of pages may be freed in parts and in other orders than it was allocated in, so each page is known by itself.

use aya_ebpf::{Global, cty::c_void, helpers::generated::bpf_loop, programs::RawTracePointContext};
use memtrace_common::{
    arch::PAGE_BYTES,
    ids::SiteIndex,
    wire::{
        counters::Counter,
        kernel_memory::{Found, KERNEL, PageEntry, Source, place_after, place_of_page},
    },
};

use super::sites::{Walker, count_allocated, count_freed, counted_site, counting, missed_free, owner, tells_unmatched};
use crate::{atomic::exchange, maps::PAGES_OF_KERNEL, target::count_at};

/// The size of `struct page`, in bytes: set at load.
#[unsafe(no_mangle)]
static PAGE_STRUCT_BYTES: Global<u64> = Global::new(64);

/// How many pages the machine has, gaps between them included: set at load.
#[unsafe(no_mangle)]
static PAGE_FRAMES: Global<u64> = Global::new(1);

/// `___GFP_MOVABLE` of `<linux/gfp_types.h>`: pages of processes and of files, which the kernel only keeps for them.
const GFP_MOVABLE: u64 = 1 << 3;

/// The largest order that is gone over; the kernel's own limit is 10 (`MAX_PAGE_ORDER` of `<linux/mmzone.h>`).
const MAX_ORDER: u32 = 16;

/// A block of pages has been allocated.
#[inline(always)]
pub(crate) fn pages_allocated(ctx: &RawTracePointContext) {
    let Some(control) = counting() else { return };
    // mm_page_alloc(struct page *page, unsigned int order, gfp_t gfp_flags, int migratetype): include/trace/events/kmem.h
    let (page, order, flags): (u64, u32, u32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    if page == 0 || order > MAX_ORDER {
        return;
    }
    let owner = if flags as u64 & GFP_MOVABLE != 0 { None } else { owner(control) };
    let site = owner.and_then(|slot| counted_site(ctx, Walker::PageAlloc, Source::Pages, slot));
    let entry = match site {
        Some((index, site)) => {
            count_allocated(site, PAGE_BYTES << order);
            PageEntry::new(index, control.now_ms)
        }
        None => PageEntry::NOT_COUNTED,
    };
    replace(page, order, entry, missed_free);
}

/// A block of pages is about to be freed.
#[inline(always)]
pub(crate) fn pages_freed(ctx: &RawTracePointContext) {
    let Some(control) = counting() else { return };
    // mm_page_free(struct page *page, unsigned int order)
    let (page, order): (u64, u32) = (ctx.arg(0), ctx.arg(1));
    if page == 0 || order > MAX_ORDER {
        return;
    }
    let was_unknown = replace(page, order, PageEntry::UNKNOWN, count_freed);
    if was_unknown && tells_unmatched(control) {
        count_at(KERNEL, Counter::UnmatchedFrees);
    }
}

/// A way over a block of pages.
struct Pages {
    /// Where the first stands.
    first: u64,
    /// The pages that come in place of all but the first.
    entry: PageEntry,
    found: Found,
    /// 1 where what is found was freed unseen.
    is_missed: u64,
}

/// Puts `entry` in place of what is known of a block of pages, and gives that to `give_back`, by site. Returns whether the
/// first was unknown.
#[inline(always)]
fn replace(page: u64, order: u32, entry: PageEntry, give_back: impl Fn(SiteIndex, u64, u64)) -> bool {
    let first = place_of_page(page, PAGE_STRUCT_BYTES.load(), PAGE_FRAMES.load());
    let Some(word) = PAGES_OF_KERNEL.get_ptr_mut(first as u32) else { return false };
    let is_free = entry.0 == PageEntry::UNKNOWN.0;
    let old = PageEntry(exchange(word, if is_free { 0 } else { entry.first().0 }));
    let mut pages = Pages { first, entry, found: Found::default(), is_missed: !is_free as u64 };
    _ = pages.found.add(old);
    if order > 0 {
        // SAFETY: the callback has the signature that the helper calls, and the context outlives the call.
        unsafe { bpf_loop((1 << order) - 1, replace_next as *mut c_void, (&raw mut pages).cast(), 0) };
    }
    let Found { site, bytes, objects } = pages.found;
    if site.0 != SiteIndex::NONE.0 {
        give_back(site, bytes, objects);
    }
    old.0 == PageEntry::UNKNOWN.0
}

/// Puts the entry in place of what is known of the page this many after the second. Returns 0: there may be more.
#[inline(never)]
extern "C" fn replace_next(index: u64, pages: *mut Pages) -> i64 {
    // SAFETY: `replace` passes its own `Pages`, which nobody else uses meanwhile.
    let pages = unsafe { &mut *pages };
    let place = place_after(pages.first, index + 1, PAGE_FRAMES.load());
    let Some(word) = PAGES_OF_KERNEL.get_ptr_mut(place as u32) else { return 1 };
    let old = PageEntry(exchange(word, pages.entry.0));
    if let Some(Found { site, bytes, objects }) = pages.found.add(old) {
        if pages.is_missed != 0 { missed_free(site, bytes, objects) } else { count_freed(site, bytes, objects) }
    }
    0
}
