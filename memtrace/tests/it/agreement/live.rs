//! Stacks of live processes that are stopped at any instruction.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    thread::sleep,
    time::{Duration, Instant},
};

use memtrace::process::{
    image::{FrameSection, Image, VDSO},
    maps::{self, Mapping},
};
use memtrace_common::steps::frame::{Memory, Registers};
use nix::{
    sys::{
        ptrace,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::code::{Code, MappedImage};
use crate::support::{load::Busy, patience};

/// How often a process is stopped, and how many instructions it is then followed.
const STOPS: u64 = 24;
const INSTRUCTIONS: usize = 250;

/// The memory of a stopped process.
pub(crate) struct Stopped(File);

impl Memory for &Stopped {
    fn word(&mut self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, address).ok()?;
        Some(u64::from_ne_bytes(bytes))
    }
}

/// A process that this thread traces.
struct Traced(Pid);

impl Traced {
    /// Stops it. Returns once it has stopped.
    fn interrupt(&self) {
        ptrace::interrupt(self.0).unwrap();
        self.wait();
    }

    /// Lets it execute an instruction.
    fn step(&self) {
        ptrace::step(self.0, None).unwrap();
        self.wait();
    }

    fn wait(&self) {
        let begun = Instant::now();
        let status = loop {
            match waitpid(self.0, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)).unwrap() {
                WaitStatus::StillAlive => {}
                status => break status,
            }
            assert!(begun.elapsed() < patience(), "the process does not stop within {:?}", patience());
            sleep(Duration::from_micros(20));
        };
        let is_stopped = matches!(status, WaitStatus::Stopped(..) | WaitStatus::PtraceEvent(..));
        assert!(is_stopped, "the process ended: {status:?}");
    }

    fn registers(&self) -> Registers {
        let registers = ptrace::getregs(self.0).unwrap();
        Registers { pc: registers.rip, sp: registers.rsp, bp: registers.rbp }
    }
}

/// Stops a process often and shows each of its stacks. Returns its images.
pub(crate) fn stop_often(mut busy: Busy, mut show: impl FnMut(&Code, Registers, &Stopped)) -> Vec<MappedImage> {
    sleep(Duration::from_millis(300));
    let pid = busy.target.pid();
    let images = images_of(pid);
    let code = Code::of(&images);
    let memory = Stopped(File::open(format!("/proc/{pid}/mem")).unwrap());
    let process = Traced(Pid::from_raw(i32::try_from(pid).unwrap()));
    ptrace::seize(process.0, ptrace::Options::empty()).unwrap();
    for stop in 0..STOPS {
        sleep(Duration::from_millis(5 + stop));
        process.interrupt();
        for _ in 0..INSTRUCTIONS {
            show(&code, process.registers(), &memory);
            process.step();
        }
        ptrace::cont(process.0, None).unwrap();
    }
    process.interrupt();
    ptrace::detach(process.0, None).unwrap();
    assert!(busy.target.is_alive());
    images
}

fn images_of(pid: u32) -> Vec<MappedImage> {
    let mappings = maps::read(pid).unwrap();
    mappings.iter().filter(|mapping| mapping.executable).filter_map(|mapping| image_at(pid, mapping)).collect()
}

/// The mappings of code, if it has call frame information.
fn image_at(pid: u32, mapping: &Mapping) -> Option<MappedImage> {
    let image = match mapping.file {
        Some(_) => Image::open(pid, mapping).unwrap(),
        None if mapping.path.as_os_str() == VDSO => Image::vdso().unwrap(),
        None => return None,
    };
    let FrameSection::EhFrame { bytes: section, address: section_offset } = image.frame_section().unwrap()? else {
        return None;
    };
    Some(MappedImage {
        name: mapping.path.display().to_string(),
        addresses: mapping.start..mapping.end,
        bias: mapping.start.wrapping_sub(image.virtual_offset(mapping.file_offset).unwrap()),
        section,
        section_offset,
    })
}
