//! The programs that trace programs: which are attached, where and when.

use std::{num::NonZeroU32, ops::Range, path::Path};

use memtrace_common::{ids::ProcessSlot, wire::counters::Counter};

use super::{
    error::BpfError,
    heap::Heap,
    loaded::Loaded,
    point::Point,
    probe_kind::{AttachMethod, ProbeKind, ProbeSet},
};

impl Loaded<Heap> {
    /// Attaches the programs that follow tasks: ends of threads, execs and, where children matter, forks.
    ///
    /// # Errors
    /// Where the kernel refuses a tracepoint.
    pub fn follow_tasks(&mut self, forks: bool) -> Result<(), BpfError> {
        self.object.follow("thread_exit", "sched_process_exit")?;
        self.object.follow("process_exec", "sched_process_exec")?;
        if forks { self.object.follow("new_task", "task_newtask") } else { Ok(()) }
    }

    /// Attaches the program that stops targets once they have mapped code. It makes every system call of
    /// the host a little slower, so it is for commands that are traced from their first instruction.
    ///
    /// # Errors
    /// Where the kernel refuses the tracepoint.
    pub fn follow_mappings(&mut self) -> Result<(), BpfError> {
        self.object.follow("syscall_exit", "sys_exit")
    }

    /// Attaches the programs that tell what targets map by themselves. They make every system call of the host
    /// a little slower.
    ///
    /// # Errors
    /// Where the kernel refuses a tracepoint.
    pub fn follow_address_spaces(&mut self) -> Result<(), BpfError> {
        // The tracepoint that tells of ranges to be given up comes first, so that no mapping is told whose end would not be.
        self.object.follow("mapping_enter", "sys_enter")?;
        self.object.follow("mapping_leave", "sys_exit")
    }

    /// Whether the kernel side can tell System V segments, and the first growth of a data segment.
    #[must_use]
    pub fn tells_segments(&self) -> bool {
        self.part.tells_segments
    }

    /// Attaches the program that tells whose the memory is that targets map: an allocator's or their own. It makes every system
    /// call of the host a little slower.
    ///
    /// # Errors
    /// Where the kernel refuses the tracepoint.
    pub fn follow_areas(&mut self) -> Result<(), BpfError> {
        self.object.follow("area_mapped", "sys_exit")
    }

    /// Looks for the tracepoint of [`Self::follow_pages`], for a run in which that begins later: by then memtrace has given up
    /// the privilege to read of tracepoints where tracefs is not mounted.
    ///
    /// # Errors
    /// Where the kernel has no such tracepoint, or it tells something else.
    pub fn find_page_event(&mut self) -> Result<(), BpfError> {
        self.part.pages.find_event()
    }

    /// Attaches the programs that tell which stacks make pages resident, unless they are. Page faults of the whole host
    /// become a little slower.
    ///
    /// # Errors
    /// Where the kernel has no such tracepoints, or refuses them.
    pub fn follow_pages(&mut self) -> Result<(), BpfError> {
        self.part.pages.follow(&mut self.object)
    }

    /// How probes are attached.
    #[must_use]
    pub fn links(&self) -> AttachMethod {
        self.part.probes.method()
    }

    /// Loads every program that tracing may need, also those for allocators that few programs have: to see whether
    /// the kernel takes them.
    ///
    /// # Errors
    /// Where the kernel refuses one.
    pub fn load_every_program(&mut self) -> Result<(), BpfError> {
        self.part.probes.load_rare(&mut self.object)
    }

    /// Puts probes at these points of the file at `path`, for the process `pid` or for every process of the host.
    ///
    /// # Errors
    /// Where the kernel refuses a probe. Those that were attached by then stay until `self` is dropped.
    pub fn attach(
        &mut self,
        kind: ProbeKind,
        pid: Option<NonZeroU32>,
        path: &Path,
        points: &[Point],
    ) -> Result<(), BpfError> {
        if points.is_empty() { Ok(()) } else { self.part.probes.attach(&mut self.object, kind, pid, path, points) }
    }

    /// Puts probes in place, or takes them out, until those are that `armed` says: those of a process alone, or all others.
    /// Later attachments keep to it; a probe that the kernel refuses is left out, with a warning.
    pub fn arm(&mut self, pid: Option<NonZeroU32>, armed: ProbeSet) {
        self.part.probes.arm(&mut self.object, pid, armed);
    }

    /// The same of all processes together, whatever was in place in each.
    pub fn arm_all(&mut self, armed: ProbeSet) {
        self.part.probes.share(&mut self.object, armed);
    }

    /// Whether some probes are in every process, or would be once armed.
    #[must_use]
    pub fn shares_probes(&self) -> bool {
        self.part.probes.are_shared()
    }

    /// Puts those probes in place once more that fire no longer, because the main threads of their processes have ended.
    /// Returns whose they were.
    pub fn follow_leaders(&mut self) -> Vec<NonZeroU32> {
        self.part.probes.follow_leaders(&mut self.object)
    }

    /// Takes out the probes in a process whose main thread is another one by now: they do not fire any more.
    pub fn unbind(&mut self, pid: NonZeroU32) {
        self.part.probes.unbind(pid);
    }

    /// Takes every probe out of a process that has its own.
    pub fn detach(&mut self, pid: NonZeroU32) {
        self.part.probes.take_out(pid);
    }

    /// Whether any probe is in place, or would be once armed, but for those that memtrace has tried on itself.
    #[must_use]
    pub fn has_probes(&self) -> bool {
        self.part.probes.are_elsewhere()
    }

    /// Tells the kernel side where hooked code is mapped: programs copy all of such a mapping, or the huge pages in it.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn note_hooked_code(&mut self, range: &Range<u64>) -> Result<(), BpfError> {
        self.part.hooked_code.note(range)
    }

    /// Takes every probe out of a process that has its own, for good, and counts that. It must not run meanwhile.
    pub fn take_probes_out(&mut self, pid: NonZeroU32, slot: ProcessSlot) {
        self.part.probes.take_out(pid);
        self.slots.count(slot, Counter::ProbesTakenOut);
    }
}
