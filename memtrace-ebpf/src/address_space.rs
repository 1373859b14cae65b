//! Facts about address spaces that no system call tells: read from its own structures.

use aya_ebpf::Global;
use memtrace_common::wire::address_space::AddressSpaceLayout;

use crate::kernel_fields::{Address, current_task, field, pointer};

/// Set at load.
#[unsafe(no_mangle)]
static ADDRESS_SPACE_LAYOUT: Global<AddressSpaceLayout> = Global::new(AddressSpaceLayout {
    nsproxy: 0,
    ipc_namespace: 0,
    segments: 0,
    node_shift: 0,
    node_slots: 0,
    segment_id: 0,
    segment_permissions: 0,
    segment_file: 0,
    file_inode: 0,
    inode_bytes: 0,
    mm: 0,
    data_end: 0,
});

/// Bits of a segment's id that are its index; the rest counts how often that was used (`ipcmni_seq_shift()` of ipc/util.h, which
/// depends on how the kernel was started).
const INDEX_BITS: [u32; 2] = [15, 24];
/// Children of a node of the kernel's trees (`XA_CHUNK_SIZE` of `<linux/xarray.h>`). Small kernels have 16: an id tells a segment
/// that was not meant.
const CHILDREN: u32 = 64;
/// Nodes from the root to a segment at most: each takes six bits of an index of 24.
const MAX_DEPTH: u32 = 4;

/// Whether the kernel's structures are known.
#[inline(always)]
pub(crate) fn is_known() -> bool {
    ADDRESS_SPACE_LAYOUT.load().is_known()
}

/// The size of a System V segment by its id, in bytes, as the current thread sees it; nothing where it is gone, or cannot be read.
#[inline(always)]
pub(crate) fn segment_bytes(id: u32) -> Option<u64> {
    let layout = ADDRESS_SPACE_LAYOUT.load();
    if !layout.is_known() {
        return None;
    }
    let namespace = pointer(pointer(current_task(), layout.nsproxy)?, layout.ipc_namespace)?;
    let root: u64 = field(namespace, layout.segments)?;
    for bits in INDEX_BITS {
        let Some(permissions) = at(&layout, root, id & ((1 << bits) - 1)) else { continue };
        if field::<u32>(permissions, layout.segment_id) != Some(id) {
            continue;
        }
        let segment = permissions.wrapping_sub(layout.segment_permissions as usize);
        // The file's size is the one that is mapped: of huge pages, more than was asked for.
        return field(pointer(pointer(segment, layout.segment_file)?, layout.file_inode)?, layout.inode_bytes);
    }
    None
}

/// The entry of the tree at `index`, whose own id says whether it was meant.
#[inline(always)]
fn at(layout: &AddressSpaceLayout, root: u64, index: u32) -> Option<Address> {
    let mut entry = root;
    for _ in 0..MAX_DEPTH {
        // xa_is_node() of <linux/xarray.h>
        if entry & 3 != 2 {
            break;
        }
        let node = (entry & !3) as Address;
        let shift: u8 = field(node, layout.node_shift)?;
        let child = (index >> (shift & 31)) & (CHILDREN - 1);
        entry = field(node, layout.node_slots.wrapping_add(child * 8))?;
    }
    if entry == 0 || entry & 3 != 0 { None } else { Some(entry as Address) }
}

/// Where the data segment of the current thread's process ends; 0 where that cannot be read.
#[inline(always)]
pub(crate) fn data_end() -> u64 {
    let layout = ADDRESS_SPACE_LAYOUT.load();
    if !layout.is_known() {
        return 0;
    }
    pointer(current_task(), layout.mm).and_then(|mm| field(mm, layout.data_end)).unwrap_or(0)
}
