//! What user space tells the kernel side while it runs.

/// The one entry of the `CONTROL` map, written by user space only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// 1 while events are counted. Set once every probe is in place, and cleared before the final
    /// reading, so that the figures are of one moment.
    pub counting: u32,
    /// 1 where a target is stopped (SIGSTOP) after an exec and after it maps a file as code, until user
    /// space has attached to that file and continues it. Only for programs that memtrace itself started.
    pub stop_on_image: u32,
    /// The process in slot 0, by thread group id: most often the only one, and found without a search.
    pub first_tgid: u32,
    /// Milliseconds since the start, as of the last reading: how old blocks are is told no closer.
    pub now_ms: u32,
}

const _: () = assert!(size_of::<Control>() == 16);
