//! Recorded stacks: what both unwinders need to walk them again, anywhere, and what came of it.
//!
//! In: stacks of a live process. Out: a compressed JSON file a program (`zcat` shows it), and back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufReader, BufWriter, Write},
    path::Path,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use memtrace_common::steps::frame::{Memory, Registers};
use serde::{Deserialize, Serialize};

use super::{
    code::{Ending, MappedImage, Walk},
    sparse::SparseSection,
};

/// A word, in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Hex(pub(crate) u64);

impl From<Hex> for String {
    fn from(word: Hex) -> Self {
        format!("{:x}", word.0)
    }
}

impl TryFrom<String> for Hex {
    type Error = std::num::ParseIntError;

    fn try_from(digits: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&digits, 16).map(Self)
    }
}

/// Bytes, in hexadecimal.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct HexBytes(pub(crate) Vec<u8>);

impl From<HexBytes> for String {
    fn from(bytes: HexBytes) -> Self {
        bytes.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl TryFrom<String> for HexBytes {
    type Error = std::num::ParseIntError;

    fn try_from(digits: String) -> Result<Self, Self::Error> {
        (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Stacks of one program.
#[derive(Serialize, Deserialize)]
pub(crate) struct Fixture {
    program: String,
    images: Vec<ImagePart>,
    pub(crate) stacks: Vec<Stack>,
}

/// A mapping of code, with the call frame information that the stacks need.
#[derive(Serialize, Deserialize)]
struct ImagePart {
    name: String,
    start: Hex,
    end: Hex,
    bias: Hex,
    eh_frame: SparseSection,
}

/// One stack.
#[derive(Serialize, Deserialize)]
pub(crate) struct Stack {
    pc: Hex,
    sp: Hex,
    bp: Hex,
    /// The words of memory that the unwinders read, by address, as far as it has changed since the stacks before.
    pub(crate) words: BTreeMap<Hex, Hex>,
    /// The frames that framehop found.
    frames: Vec<Hex>,
    /// Whether it reached the thread's first frame.
    is_whole: bool,
}

impl Stack {
    pub(crate) fn registers(&self) -> Registers {
        Registers { pc: self.pc.0, sp: self.sp.0, bp: self.bp.0 }
    }

    pub(crate) fn expected(&self) -> Walk {
        Walk {
            frames: self.frames.iter().map(|frame| frame.0).collect(),
            ending: if self.is_whole { Ending::FirstFrame } else { Ending::Cut },
        }
    }
}

impl Fixture {
    pub(crate) fn load(path: &Path) -> Self {
        let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_reader(BufReader::new(GzDecoder::new(file))).unwrap()
    }

    pub(crate) fn save(&self, path: &Path) {
        let mut out = BufWriter::new(GzEncoder::new(File::create(path).unwrap(), Compression::best()));
        serde_json::to_writer(&mut out, self).unwrap();
        out.flush().unwrap();
        println!("recorded {} stacks to {}", self.stacks.len(), path.display());
    }

    pub(crate) fn images(&self) -> Vec<MappedImage> {
        let images = self.images.iter().map(|image| MappedImage {
            name: image.name.clone(),
            addresses: image.start.0..image.end.0,
            bias: image.bias.0,
            section: image.eh_frame.filled(),
            section_offset: image.eh_frame.address.0,
        });
        images.collect()
    }
}

/// Recorded memory.
#[derive(Default)]
pub(crate) struct Words(BTreeMap<u64, u64>);

impl Words {
    /// Goes on to the next stack's memory.
    pub(crate) fn change(&mut self, words: &BTreeMap<Hex, Hex>) {
        self.0.extend(words.iter().map(|(address, word)| (address.0, word.0)));
    }
}

impl Memory for &Words {
    fn word(&mut self, address: u64) -> Option<u64> {
        self.0.get(&address).copied()
    }
}

/// Memory that remembers what was read of it.
pub(crate) struct Recording<M> {
    memory: M,
    words: BTreeMap<u64, u64>,
}

impl<M: Memory> Recording<M> {
    pub(crate) fn of(memory: M) -> Self {
        Self { memory, words: BTreeMap::new() }
    }
}

impl<M: Memory> Memory for Recording<M> {
    fn word(&mut self, address: u64) -> Option<u64> {
        let word = self.memory.word(address)?;
        self.words.insert(address, word);
        Some(word)
    }
}

/// Makes a fixture, stack by stack.
#[derive(Default)]
pub(crate) struct Recorder {
    memory: Words,
    stacks: Vec<Stack>,
}

impl Recorder {
    pub(crate) fn add<M>(&mut self, from: Registers, memory: Recording<M>, theirs: &Walk) {
        let changed = memory.words.into_iter().filter(|(address, word)| self.memory.0.get(address) != Some(word));
        let words = changed.map(|(address, word)| (Hex(address), Hex(word))).collect();
        self.memory.change(&words);
        self.stacks.push(Stack {
            pc: Hex(from.pc),
            sp: Hex(from.sp),
            bp: Hex(from.bp),
            words,
            frames: theirs.frames.iter().copied().map(Hex).collect(),
            is_whole: theirs.is_whole(),
        });
    }

    pub(crate) fn fixture(self, program: &str, images: &[MappedImage]) -> Fixture {
        // A frame's row is looked up at its address or, of a return address, at the byte before.
        let frames = self.stacks.iter().flat_map(|stack| &stack.frames);
        let looked_up: BTreeSet<u64> = frames.flat_map(|frame| [frame.0 - 1, frame.0]).collect();
        let part = |image: &MappedImage| {
            let wanted: BTreeSet<u64> =
                looked_up.range(image.addresses.clone()).map(|address| address - image.bias).collect();
            (!wanted.is_empty()).then(|| ImagePart {
                name: image.name.clone(),
                start: Hex(image.addresses.start),
                end: Hex(image.addresses.end),
                bias: Hex(image.bias),
                eh_frame: SparseSection::of(&image.section, image.section_offset, &wanted),
            })
        };
        Fixture { program: program.to_owned(), images: images.iter().filter_map(part).collect(), stacks: self.stacks }
    }
}
