//! Both unwinders' view of a process's code, and their walks.

use std::ops::Range;

use framehop::{
    ExplicitModuleSectionInfo, Module, Unwinder,
    x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64},
};
use memtrace::{process::image::FrameSection, unwind::cfi};
use memtrace_common::{
    steps::{
        cfi::step,
        frame::{Failure, Memory, Registers, Step},
    },
    wire::code::{CfaRule, Row},
};

/// The deepest stack that is compared, in frames.
const MAX_FRAMES: usize = 256;

/// A mapping of an image's code.
pub(crate) struct MappedImage {
    pub(crate) name: String,
    pub(crate) addresses: Range<u64>,
    /// The number to subtract from an address to get a virtual offset.
    pub(crate) bias: u64,
    /// `.eh_frame`.
    pub(crate) section: Vec<u8>,
    /// The virtual offset at which the section is loaded.
    pub(crate) section_offset: u64,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// At the thread's first frame.
    FirstFrame,
    /// In code without call frame information.
    NoRule,
    /// Before the first frame, for another reason or for one that is not known.
    Cut,
}

/// A stack as it was walked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    pub(crate) frames: Vec<u64>,
    pub(crate) ending: Ending,
}

impl Walk {
    pub(crate) fn is_whole(&self) -> bool {
        self.ending == Ending::FirstFrame
    }
}

struct RowsAt {
    addresses: Range<u64>,
    bias: u64,
    rows: Vec<Row>,
}

pub(crate) struct Code {
    ours: Vec<RowsAt>,
    theirs: UnwinderX86_64<Vec<u8>>,
}

impl Code {
    pub(crate) fn of(images: &[MappedImage]) -> Self {
        let (mut ours, mut theirs) = (Vec::new(), UnwinderX86_64::new());
        for MappedImage { name, addresses, bias, section, section_offset } in images {
            let bytes = section.clone();
            let rows = cfi::compile(&FrameSection::EhFrame { bytes, address: *section_offset }).unwrap();
            ours.push(RowsAt { addresses: addresses.clone(), bias: *bias, rows });
            let information = ExplicitModuleSectionInfo {
                base_svma: 0,
                eh_frame_svma: Some(*section_offset..section_offset + section.len() as u64),
                eh_frame: Some(section.clone()),
                ..Default::default()
            };
            theirs.add_module(Module::new(name.clone(), addresses.clone(), *bias, information));
        }
        Self { ours, theirs }
    }

    fn row_at(&self, address: u64) -> Option<Row> {
        let image = self.ours.iter().find(|image| image.addresses.contains(&address))?;
        let after = image.rows.partition_point(|row| u64::from(row.start) <= address - image.bias);
        image.rows[..after].last().copied().filter(|row| row.rule() != Some(CfaRule::Unknown))
    }

    /// Our walk.
    pub(crate) fn ours(&self, from: Registers, memory: &mut impl Memory) -> Walk {
        let (mut registers, mut is_exact) = (from, true);
        let mut frames = vec![from.pc];
        let ending = loop {
            if frames.len() == MAX_FRAMES {
                break Ending::Cut;
            }
            let address = if is_exact { registers.pc } else { registers.pc - 1 };
            let Some(row) = self.row_at(address) else { break Ending::NoRule };
            (registers, is_exact) = match step(row, registers, memory) {
                Step::Caller(registers) => (registers, false),
                Step::Interrupted(registers) => (registers, true),
                Step::End => break Ending::FirstFrame,
                Step::Failed(Failure::NoRule) => break Ending::NoRule,
                Step::Failed(_) => break Ending::Cut,
            };
            frames.push(registers.pc);
        };
        Walk { frames, ending }
    }

    /// The other unwinder's.
    pub(crate) fn theirs(&self, from: Registers, memory: &mut impl Memory) -> Walk {
        let mut cache = CacheX86_64::<_>::new();
        let mut read = |address| memory.word(address).ok_or(());
        let registers = UnwindRegsX86_64::new(from.pc, from.sp, from.bp);
        let mut iterator = self.theirs.iter_frames(from.pc, registers, &mut cache, &mut read);
        let mut frames = Vec::new();
        let ending = loop {
            if frames.len() == MAX_FRAMES {
                break Ending::Cut;
            }
            match iterator.next() {
                Ok(Some(frame)) => frames.push(frame.address()),
                Ok(None) => break Ending::FirstFrame,
                Err(_) => break Ending::Cut,
            }
        };
        Walk { frames, ending }
    }
}
