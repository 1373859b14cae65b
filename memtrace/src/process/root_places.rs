//! Where a root is, in terms that mean something: a variable of an image, a thread, a mapping.
//!
//! In: the mappings and threads of a process, the data of its images. Out: for an address the spot that it lies in. Makes no system
//! call by itself: whoever asks opens images.

use std::collections::HashMap;

use super::{
    heap::smaps::MappedMemory,
    image::data::ImageData,
    maps::Mapping,
    thread_words::{Thread, ThreadRecord},
};

/// Bytes of a thread's record and of the thread-local memory below it, at most: beyond that, memory around a record is something else.
const RECORD_BYTES: u64 = 0x900;
const THREAD_LOCAL_BYTES: u64 = 64 << 10;

/// The kind of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingKind {
    /// Data of a file, which may be an image; its first mapping, by index.
    File(usize),
    /// A stack.
    Stack,
    /// Something else.
    Other,
}

/// Where a root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Spot {
    /// In a variable of an image: the image's first mapping, by index, and the virtual offset at which the variable begins.
    Variable(usize, u64),
    /// In data of an image in which no variable is told apart: the same, and the virtual offset of the address itself.
    Unnamed(usize, u64),
    /// In a thread-local variable of the program: the thread, and where the variable begins in the thread-local data.
    ThreadLocal(u32, u64),
    /// On the stack of a thread, or in its thread-local memory.
    Thread(u32),
    /// In a mapping, by index.
    Mapping(usize),
}

/// Opens an image by one of its mappings, and reads where its data lies; nothing where it is no image.
pub type Open<'a> = dyn FnMut(&Mapping) -> Option<ImageData> + 'a;

/// The mappings and threads of a process.
#[derive(Debug)]
pub struct Places<'a> {
    mappings: &'a [MappedMemory],
    kinds: Vec<MappingKind>,
    /// The thread whose stack a mapping is, by the mapping's index.
    stacks: HashMap<usize, u32>,
    /// The thread of each record, in order of addresses.
    records: Vec<(u64, u32)>,
    /// The data of images that were asked for, by their first mapping.
    images: HashMap<usize, Option<ImageData>>,
}

impl<'a> Places<'a> {
    /// Those of a process with these mappings, in order of addresses.
    #[must_use]
    pub fn new(mappings: &'a [MappedMemory], threads: &[Thread]) -> Self {
        let mut places = Self {
            mappings,
            kinds: kinds(mappings),
            stacks: HashMap::new(),
            records: Vec::new(),
            images: HashMap::new(),
        };
        for thread in threads {
            let stack = thread.words.stack_pointer.and_then(|pointer| places.mapping(pointer));
            if let Some(stack) = stack {
                places.stacks.insert(stack, thread.words.tid);
            }
        }
        places
    }

    /// Takes in records that were found in memory: those of threads that are known.
    pub fn note_records(&mut self, records: &[ThreadRecord], threads: &[Thread]) {
        let tids: HashMap<u32, u32> = threads.iter().map(|thread| (thread.own_tid, thread.words.tid)).collect();
        for record in records {
            let Some(tid) = tids.get(&record.own_tid).copied() else { continue };
            self.records.push((record.address, tid));
            let mapping = self.mapping(record.address);
            // A thread that runs has no stack pointer that is told; the C library puts its record on top of its stack.
            if let Some(mapping) = mapping.filter(|mapping| self.kinds.get(*mapping) == Some(&MappingKind::Stack)) {
                self.stacks.entry(mapping).or_insert(tid);
            }
        }
        self.records.sort_unstable();
    }

    /// The kind of the mapping of an address.
    #[must_use]
    pub fn kind(&self, address: u64) -> MappingKind {
        self.mapping(address).and_then(|mapping| self.kinds.get(mapping).copied()).unwrap_or(MappingKind::Other)
    }

    /// The mapping of an address, by index.
    #[must_use]
    pub fn mapping(&self, address: u64) -> Option<usize> {
        let index = self.mappings.partition_point(|one| one.mapping.end <= address);
        self.mappings.get(index).is_some_and(|one| one.mapping.start <= address).then_some(index)
    }

    /// The path of a mapping as the process has it, or its name in brackets; empty for anonymous memory.
    #[must_use]
    pub fn path(&self, mapping: usize) -> String {
        let path = self.mappings.get(mapping).map(|one| one.mapping.path.to_string_lossy().into_owned());
        path.unwrap_or_default()
    }

    /// The program's first mapping, by index: that of the first image.
    #[must_use]
    pub fn program(&self) -> Option<usize> {
        self.kinds.iter().enumerate().find_map(|(index, kind)| (*kind == MappingKind::File(index)).then_some(index))
    }

    /// The spot of an address; nothing where no mapping has it.
    pub fn spot(&mut self, address: u64, open: &mut Open<'_>) -> Option<Spot> {
        let mapping = self.mapping(address)?;
        let kind = self.kinds.get(mapping).copied().unwrap_or(MappingKind::Other);
        if let Some((record, tid)) = self.record_near(address, mapping) {
            let program = self.program();
            let image = program.and_then(|program| self.image(program, open));
            if let Some((image, offset)) =
                image.and_then(|image| Some((image, image.thread_local_offset(record, address)?)))
            {
                return Some(Spot::ThreadLocal(tid, image.thread_locals.at(offset).unwrap_or(offset)));
            }
            if kind != MappingKind::Stack && !matches!(kind, MappingKind::File(_)) {
                return Some(Spot::Thread(tid));
            }
        }
        match kind {
            MappingKind::File(first) => Some(self.in_image(first, address, open).unwrap_or(Spot::Mapping(mapping))),
            MappingKind::Stack => {
                Some(self.stacks.get(&mapping).map_or(Spot::Mapping(mapping), |tid| Spot::Thread(*tid)))
            }
            MappingKind::Other => Some(Spot::Mapping(mapping)),
        }
    }

    /// The thread record to whose memory an address may belong, with its thread: it lies behind it, or a little before.
    fn record_near(&self, address: u64, mapping: usize) -> Option<(u64, u32)> {
        let next = self.records.partition_point(|(record, _)| record.saturating_add(RECORD_BYTES) <= address);
        let (record, tid) = *self.records.get(next)?;
        let is_near = address >= record || record - address <= THREAD_LOCAL_BYTES;
        (is_near && self.mapping(record) == Some(mapping)).then_some((record, tid))
    }

    fn image(&mut self, first: usize, open: &mut Open<'_>) -> Option<&ImageData> {
        let mapping = &self.mappings.get(first)?.mapping;
        self.images.entry(first).or_insert_with(|| open(mapping)).as_ref()
    }

    fn in_image(&mut self, first: usize, address: u64, open: &mut Open<'_>) -> Option<Spot> {
        let mappings = self.mappings;
        let mapping = &mappings.get(first)?.mapping;
        let data = self.image(first, open)?;
        let offset = address.checked_sub(data.bias(mapping)?).filter(|offset| *offset < data.end())?;
        Some(match data.variables.at(offset) {
            Some(variable) => Spot::Variable(first, variable),
            None => Spot::Unnamed(first, offset),
        })
    }
}

/// The kind of each mapping.
fn kinds(mappings: &[MappedMemory]) -> Vec<MappingKind> {
    let mut kinds: Vec<MappingKind> = Vec::with_capacity(mappings.len());
    let mut before: Option<(&Mapping, MappingKind)> = None;
    for (index, one) in mappings.iter().enumerate() {
        let mapping = &one.mapping;
        let kind = match (&mapping.file, before) {
            (Some(file), Some((last, MappingKind::File(first)))) if last.file.as_ref() == Some(file) => {
                MappingKind::File(first)
            }
            (Some(_), _) if !mapping.shared => MappingKind::File(index),
            // Data without content in the file lies behind the file's part. Where it ends, only the image tells.
            (None, Some((last, MappingKind::File(first)))) if last.end == mapping.start && is_anonymous(mapping) => {
                MappingKind::File(first)
            }
            (None, _) if mapping.path.as_os_str() == "[stack]" => MappingKind::Stack,
            (None, Some((last, _))) if last.guards(mapping) => MappingKind::Stack,
            _ => MappingKind::Other,
        };
        before = Some((mapping, kind));
        kinds.push(kind);
    }
    kinds
}

/// Whether a mapping is of no file and has no name but one that somebody gave it (prctl(2), PR_SET_VMA_ANON_NAME).
fn is_anonymous(mapping: &Mapping) -> bool {
    let name = mapping.path.as_os_str().as_encoded_bytes();
    name.is_empty() || name.starts_with(b"[anon:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::roots::ThreadWords, process::heap::smaps};

    const MAPS: &str = "1000-2000 r--p 0 08:01 7    /app\n2000-3000 rw-p 1000 08:01 7    /app\n3000-6000 rw-p 0 00:00 0\n\
                        10000-11000 ---p 0 00:00 0\n11000-20000 rw-p 0 00:00 0\n\
                        30000-38000 rw-p 0 00:00 0\n\
                        40000-41000 rw-p 0 08:01 9    /data\n41000-42000 rw-s 0 00:01 8    /memfd:x\n\
                        50000-58000 rw-p 0 00:00 0    [stack]\n";

    fn thread(tid: u32, stack_pointer: Option<u64>) -> Thread {
        Thread { words: ThreadWords { tid, stack_pointer, registers: None }, own_tid: tid - 100 }
    }

    #[test]
    fn every_kind_of_memory_has_its_spot() {
        let mappings = smaps::parse(MAPS.as_bytes()).unwrap();
        let threads = [thread(107, Some(0x5_7000)), thread(108, None)];
        let mut places = Places::new(&mappings, &threads);
        let record = |address, own_tid| ThreadRecord { address, own_tid };
        places.note_records(&[record(0x3_4000, 7), record(0x1_f000, 8), record(0x1_2000, 99)], &threads);
        let mut opened = Vec::new();
        let mut open = |mapping: &Mapping| {
            opened.push(mapping.start);
            (mapping.path.as_os_str() == "/app").then(ImageData::sample)
        };
        let mut spot = |address| places.spot(address, &mut open);
        // A variable from 0x3010 to 0x3110; the image ends at 0x4000 from its beginning on.
        assert_eq!(spot(0x3000 + 0x1018), Some(Spot::Variable(0, 0x3010)));
        assert_eq!(spot(0x3008), Some(Spot::Unnamed(0, 0x2008)));
        assert_eq!(spot(0x5008), Some(Spot::Mapping(2)), "behind the image's end");
        assert_eq!(spot(0x1_f800), Some(Spot::Thread(108)), "its record");
        assert_eq!(spot(0x1_1008), Some(Spot::Thread(108)), "the stack below its record");
        assert_eq!(spot(0x3_3ff0), Some(Spot::ThreadLocal(107, 0)));
        assert_eq!(spot(0x3_3fb8), Some(Spot::Thread(107)), "another image's thread-local memory");
        assert_eq!(spot(0x3_7008), Some(Spot::Mapping(5)));
        assert_eq!(spot(0x4_0008), Some(Spot::Mapping(6)), "no image");
        assert_eq!(spot(0x4_1008), Some(Spot::Mapping(7)));
        assert_eq!(spot(0x5_7800), Some(Spot::Thread(107)));
        assert_eq!(spot(0x6_0000), None);
        assert_eq!(opened, [0x1000, 0x4_0000], "each once");
        assert_eq!(places.path(0), "/app");
    }
}
