//! The only `unsafe impl Pod`: what may be copied bytewise between kernel and user space.

use crate::{
    block::{BlockKey, LiveBlock},
    block_table::Bucket,
    control::Control,
    free_side::FreeSide,
    namespace::{PidLayout, PidNamespace},
    pages::Resident,
    process::{Process, ProcessSlot, SlotOfProcess},
    site::{Site, SiteId, SiteIndex},
    stack::{StackId, StackRecord},
    thread::Thread,
    unwind::{CodeRange, CodeTable, Row},
};

macro_rules! pod {
    ($($name:ty),+ $(,)?) => {$(
        // SAFETY: `repr(C)` or `repr(transparent)` over integers, without padding (sizes are asserted
        // beside the types), so every bit pattern is a valid value.
        unsafe impl aya::Pod for $name {}
    )+};
}

pod!(
    BlockKey,
    Bucket,
    CodeRange,
    CodeTable,
    Row,
    LiveBlock,
    PidLayout,
    PidNamespace,
    Control,
    FreeSide,
    Process,
    ProcessSlot,
    Resident,
    Site,
    SiteId,
    SiteIndex,
    SlotOfProcess,
    StackId,
    StackRecord,
    Thread
);
