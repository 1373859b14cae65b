//! The events that the programs tell user space at once, through ring buffers.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use aya_log::EbpfLogger;
use memtrace_common::wire::{event::Event, mapping::MappingEvent};

/// A ring buffer of records. Its descriptor can be read where there are some.
pub struct Records<T> {
    ring: RingBuf<MapData>,
    read: fn(&[u8]) -> Option<T>,
}

/// The rare events: new images, programs and children, and the ends of programs.
pub type Events = Records<Event>;
/// The changes of address spaces.
pub type MappingEvents = Records<MappingEvent>;

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring, read: Event::from_bytes }
    }
}

impl MappingEvents {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring, read: MappingEvent::from_bytes }
    }
}

impl<T> Records<T> {
    /// Takes every record that is there by now, the oldest first.
    pub fn take(&mut self) -> Vec<T> {
        let mut records = Vec::new();
        while let Some(bytes) = self.ring.next() {
            records.extend((self.read)(&bytes));
        }
        records
    }
}

impl<T> AsRawFd for Records<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// The debug lines of the programs. The descriptor can be read where there are some.
pub struct DebugLines(EbpfLogger<&'static dyn log::Log>);

impl DebugLines {
    /// Takes them out of the object, once.
    ///
    /// # Errors
    /// Where they were taken before.
    pub(super) fn take(ebpf: &mut Ebpf) -> io::Result<Self> {
        EbpfLogger::init(ebpf).map(Self).map_err(io::Error::other)
    }

    /// Writes every line that is there by now to the log.
    pub fn forward(&mut self) {
        self.0.flush();
    }
}

impl AsRawFd for DebugLines {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
