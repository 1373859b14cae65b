//! Frame by frame agreement with an independent unwinder (framehop), on stacks of live processes that are
//! stopped at any instruction: in prologues, epilogues, linkage tables and system calls as well.
#![allow(missing_docs, clippy::unwrap_used, clippy::multiple_unsafe_ops_per_block, reason = "tests")]

mod support;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
};

use framehop::{
    ExplicitModuleSectionInfo, Module, Unwinder,
    x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64},
};
use memtrace::{
    process::{
        image::{FrameSection, Image, VDSO},
        maps::{self, Mapping},
    },
    unwind::cfi,
};
use memtrace_common::unwind::{Memory, Registers, Row, Step, step};
use support::load::{self, Busy};

/// The deepest stack that is compared, in frames.
const MAX_FRAMES: usize = 256;
/// How often a process is stopped, and how many instructions it is then followed.
const STOPS: usize = 6;
const INSTRUCTIONS: usize = 300;

/// The memory of a stopped process.
struct Stopped(File);

impl Memory for Stopped {
    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, address).ok()?;
        Some(u64::from_ne_bytes(bytes))
    }

    fn pair(&self, address: u64) -> Option<[u64; 2]> {
        Some([self.word(address)?, self.word(address.checked_add(8)?)?])
    }
}

/// Both unwinders' view of a process's code.
struct Code {
    mappings: Vec<Mapping>,
    rows: HashMap<PathBuf, (Image, Vec<Row>)>,
    framehop: UnwinderX86_64<Vec<u8>>,
}

impl Code {
    fn of(pid: u32) -> Self {
        let mappings: Vec<Mapping> = maps::read(pid).unwrap().into_iter().filter(|m| m.executable).collect();
        let mut rows = HashMap::new();
        let mut framehop = UnwinderX86_64::new();
        for mapping in &mappings {
            let image = match mapping.file {
                Some(_) => Image::open(pid, mapping).unwrap(),
                None if mapping.path.as_os_str() == VDSO => Image::vdso().unwrap(),
                None => continue,
            };
            let Some(section) = image.frame_section().unwrap() else { continue };
            let offset = image.virtual_offset(mapping.file_offset).unwrap();
            let rows_of_image = cfi::compile(&section).unwrap();
            let FrameSection::EhFrame { bytes, address } = section else { continue };
            framehop.add_module(Module::new(
                mapping.path.display().to_string(),
                mapping.start..mapping.end,
                mapping.start.wrapping_sub(offset),
                ExplicitModuleSectionInfo {
                    base_svma: 0,
                    eh_frame_svma: Some(address..address + bytes.len() as u64),
                    eh_frame: Some(bytes),
                    ..Default::default()
                },
            ));
            rows.insert(mapping.path.clone(), (image, rows_of_image));
        }
        Self { mappings, rows, framehop }
    }

    fn row_at(&self, address: u64) -> Option<Row> {
        let mapping = self.mappings.iter().find(|m| m.start <= address && address < m.end)?;
        let (image, rows) = self.rows.get(&mapping.path)?;
        let offset = image.virtual_offset(address - mapping.start + mapping.file_offset)?;
        let after = rows.partition_point(|row| u64::from(row.start) <= offset);
        Some(rows[after.checked_sub(1)?])
    }

    /// Our frames, and whether they reach the outermost.
    fn ours(&self, from: Registers, memory: &Stopped) -> (Vec<u64>, bool) {
        let (mut registers, mut is_exact) = (from, true);
        let mut frames = vec![from.pc];
        while frames.len() < MAX_FRAMES {
            let address = if is_exact { registers.pc } else { registers.pc - 1 };
            let Some(row) = self.row_at(address) else { return (frames, false) };
            (registers, is_exact) = match step(row, registers, memory) {
                Step::Caller(registers) => (registers, false),
                Step::Interrupted(registers) => (registers, true),
                Step::End => return (frames, true),
                Step::Failed(_) => return (frames, false),
            };
            frames.push(registers.pc);
        }
        (frames, false)
    }

    /// The other unwinder's.
    fn theirs(&self, from: Registers, memory: &Stopped) -> (Vec<u64>, bool) {
        let mut cache = CacheX86_64::<_>::new();
        let mut read = |address| memory.word(address).ok_or(());
        let registers = UnwindRegsX86_64::new(from.pc, from.sp, from.bp);
        let mut iterator = self.framehop.iter_frames(from.pc, registers, &mut cache, &mut read);
        let mut frames = Vec::new();
        while frames.len() < MAX_FRAMES {
            match iterator.next() {
                Ok(Some(frame)) => frames.push(frame.address()),
                Ok(None) => return (frames, true),
                Err(_) => return (frames, false),
            }
        }
        (frames, false)
    }
}

/// A process that this thread traces.
struct Traced(i32);

impl Traced {
    fn ptrace(&self, request: libc::c_uint, data: usize) {
        // SAFETY: none of the requests used with this reads or writes our memory.
        let done = unsafe { libc::ptrace(request, self.0, 0usize, data) };
        assert_ne!(done, -1, "ptrace {request}: {}", io::Error::last_os_error());
    }

    fn wait(&self) {
        let mut status = 0;
        // SAFETY: one valid integer to write to.
        let waited = unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) };
        assert_eq!(waited, self.0, "{}", io::Error::last_os_error());
        assert!(libc::WIFSTOPPED(status), "the process ended: {status:#x}");
    }

    fn registers(&self) -> Registers {
        // SAFETY: zeros are valid registers.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one `user_regs_struct`.
        let done = unsafe { libc::ptrace(libc::PTRACE_GETREGS, self.0, 0usize, &raw mut registers) };
        assert_ne!(done, -1, "{}", io::Error::last_os_error());
        Registers { pc: registers.rip, sp: registers.rsp, bp: registers.rbp }
    }
}

/// What came of comparing a process's stacks.
#[derive(Default)]
struct Comparison {
    distinct: usize,
    /// Stacks that we end, and say so, in code without call frame information (there is some in glibc's memory
    /// functions), where the other unwinder goes on by frame pointer. Up to there both are the same.
    ended_earlier: usize,
    /// Stacks of which any frame differs.
    different: Vec<String>,
}

fn compare(name: &str, mut busy: Busy) -> Comparison {
    std::thread::sleep(std::time::Duration::from_millis(300));
    let pid = busy.target.pid();
    let code = Code::of(pid);
    let memory = Stopped(File::open(format!("/proc/{pid}/mem")).unwrap());
    let process = Traced(i32::try_from(pid).unwrap());
    process.ptrace(libc::PTRACE_SEIZE, 0);
    let (mut distinct, mut whole) = (HashSet::new(), 0);
    let mut comparison = Comparison::default();
    for stop in 0..STOPS {
        std::thread::sleep(std::time::Duration::from_millis(7 + stop as u64 * 3));
        process.ptrace(libc::PTRACE_INTERRUPT, 0);
        process.wait();
        for _ in 0..INSTRUCTIONS {
            let registers = process.registers();
            let (ours, theirs) = (code.ours(registers, &memory), code.theirs(registers, &memory));
            let ended_earlier = !ours.1 && theirs.0.starts_with(&ours.0);
            if ours != theirs && ended_earlier {
                comparison.ended_earlier += 1;
            } else if ours != theirs {
                comparison.different.push(format!("{name}: ours {ours:x?}\n      theirs {theirs:x?}"));
            }
            if distinct.insert(ours.0) && ours.1 {
                whole += 1;
            }
            process.ptrace(libc::PTRACE_SINGLESTEP, 0);
            process.wait();
        }
        process.ptrace(libc::PTRACE_CONT, 0);
    }
    process.ptrace(libc::PTRACE_INTERRUPT, 0);
    process.wait();
    process.ptrace(libc::PTRACE_DETACH, 0);
    assert!(busy.target.is_alive());
    comparison.distinct = distinct.len();
    let Comparison { distinct, ended_earlier, different } = &comparison;
    println!("| {name} | {distinct} | {whole} | {ended_earlier} | {} |", different.len());
    comparison
}

#[test]
fn a_thousand_distinct_stacks_of_real_programs_agree_frame_by_frame() {
    let programs = [
        ("python3.11", load::python as fn() -> Busy),
        ("perl", load::perl),
        ("sqlite3", load::sqlite),
        ("postgres", load::postgres),
        ("redis-server", load::redis),
    ];
    let (mut distinct, mut ended_earlier, mut different) = (0, 0, Vec::new());
    for (name, start) in programs {
        let comparison = compare(name, start());
        distinct += comparison.distinct;
        ended_earlier += comparison.ended_earlier;
        different.extend(comparison.different);
    }
    for difference in different.iter().take(5) {
        println!("{difference}");
    }
    assert!(distinct >= 1000, "only {distinct} distinct stacks");
    assert!(different.len() * 1000 <= distinct, "{} of {distinct} differ", different.len());
    assert!(ended_earlier * 50 <= distinct, "{ended_earlier} of {distinct} end earlier");
}
