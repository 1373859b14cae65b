//! The only `unsafe impl Pod`: what may be copied bytewise between kernel and user space.

use super::{
    address_space::AddressSpaceLayout,
    block::LiveBlock,
    code::{CodeRange, CodeTable, Row, SpareRows},
    control::{Control, InForce},
    free_site::FreeSite,
    namespace::{PidLayout, PidNamespace},
    process::{Process, SlotOfProcess},
    registers::{ThreadLayout, ThreadRegisters},
    resident::Resident,
    site::Site,
    stack::StackRecord,
};
use crate::{
    ids::{BlockKey, ProcessSlot, SiteId, SiteIndex, StackId},
    steps::{block_table::Bucket, call::PendingCall},
    thread::Thread,
};

macro_rules! pod {
    ($($name:ty),+ $(,)?) => {$(
        // SAFETY: `repr(C)` or `repr(transparent)` over integers, without padding (sizes are asserted
        // beside the types), so every bit pattern is a valid value.
        unsafe impl aya::Pod for $name {}
    )+};
}

pod!(
    AddressSpaceLayout,
    BlockKey,
    Bucket,
    CodeRange,
    CodeTable,
    Row,
    LiveBlock,
    PidLayout,
    PidNamespace,
    Control,
    FreeSite,
    InForce,
    PendingCall,
    Process,
    ProcessSlot,
    Resident,
    Site,
    SiteId,
    SiteIndex,
    SlotOfProcess,
    SpareRows,
    StackId,
    StackRecord,
    Thread,
    ThreadLayout,
    ThreadRegisters
);
