//! Address spaces: where the kernel keeps what its system calls do not tell of them.

/// Where the kernel's structures hold what is read of an address space, in bytes; all 0 where that is not known, or nobody asks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressSpaceLayout {
    /// `task_struct.nsproxy`; never 0 where the layout is known.
    pub nsproxy: u32,
    /// `nsproxy.ipc_ns`.
    pub ipc_namespace: u32,
    /// The root of the tree of System V segments by index, in `ipc_namespace`.
    pub segments: u32,
    /// `xa_node.shift`.
    pub node_shift: u32,
    /// `xa_node.slots`.
    pub node_slots: u32,
    /// `kern_ipc_perm.id`.
    pub segment_id: u32,
    /// `shmid_kernel.shm_perm`.
    pub segment_permissions: u32,
    /// `shmid_kernel.shm_file`.
    pub segment_file: u32,
    /// `file.f_inode`.
    pub file_inode: u32,
    /// `inode.i_size`.
    pub inode_bytes: u32,
    /// `task_struct.mm`.
    pub mm: u32,
    /// `mm_struct.brk`.
    pub data_end: u32,
}

impl AddressSpaceLayout {
    /// Whether the kernel's structures are known.
    #[inline(always)]
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.nsproxy != 0
    }
}

const _: () = assert!(size_of::<AddressSpaceLayout>() == 48);
