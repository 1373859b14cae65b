//! Programs that copy their code: the breakpoints in it would be copied as well, and end the program. How long hooked code is
//! tells who may be about to, and its probes can be taken out before it does.

use std::{num::NonZeroU32, ops::Range};

use memtrace_common::{
    control::HOOKED_CODE,
    process::{Counter, ProcessSlot},
};

use super::{Kernel, KernelError};

const HUGE_PAGE: u64 = 2 << 20;

impl Kernel {
    /// Tells the kernel side where hooked code is mapped: programs copy all of such a mapping, or the huge pages in it.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn note_hooked_code(&mut self, range: &Range<u64>) -> Result<(), KernelError> {
        let huge_pages = (range.end / HUGE_PAGE).saturating_sub(range.start.div_ceil(HUGE_PAGE)) * HUGE_PAGE;
        for length in [range.end - range.start, huge_pages].into_iter().filter(|length| *length > 0) {
            let place = u32::try_from(self.hooked_code.len()).unwrap_or(HOOKED_CODE);
            if place < HOOKED_CODE && !self.hooked_code.contains(&length) {
                self.hooked_code.push(length);
                self.set("HOOKED_CODE", place, length)?;
            }
        }
        Ok(())
    }

    /// Takes every probe out of a process that has its own, for good, and counts that. It must not run meanwhile.
    ///
    /// # Errors
    /// Where a map cannot be read or written.
    pub fn take_probes_out(&mut self, pid: NonZeroU32, slot: ProcessSlot) -> Result<(), KernelError> {
        self.probes.take_out(pid);
        let mut process = self.process(slot)?;
        process.counters[Counter::ProbesTakenOut as usize] += 1;
        self.set("PROCESSES", slot.0, process)
    }
}
