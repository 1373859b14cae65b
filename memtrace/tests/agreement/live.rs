//! Stacks of live processes that are stopped at any instruction.

use std::{fs::File, io, os::unix::fs::FileExt, thread::sleep, time::Duration};

use memtrace::process::{
    image::{FrameSection, Image, VDSO},
    maps::{self, Mapping},
};
use memtrace_common::unwind::{Memory, Registers};

use crate::{
    code::{Code, MappedImage},
    support::load::Busy,
};

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

/// Stops a process often and shows each of its stacks. Returns its images.
pub(crate) fn stop_often(mut busy: Busy, mut show: impl FnMut(&Code, Registers, &Stopped)) -> Vec<MappedImage> {
    sleep(Duration::from_millis(300));
    let pid = busy.target.pid();
    let images = images_of(pid);
    let code = Code::of(&images);
    let memory = Stopped(File::open(format!("/proc/{pid}/mem")).unwrap());
    let process = Traced(i32::try_from(pid).unwrap());
    process.ptrace(libc::PTRACE_SEIZE, 0);
    for stop in 0..STOPS {
        sleep(Duration::from_millis(5 + stop));
        process.ptrace(libc::PTRACE_INTERRUPT, 0);
        process.wait();
        for _ in 0..INSTRUCTIONS {
            show(&code, process.registers(), &memory);
            process.ptrace(libc::PTRACE_SINGLESTEP, 0);
            process.wait();
        }
        process.ptrace(libc::PTRACE_CONT, 0);
    }
    process.ptrace(libc::PTRACE_INTERRUPT, 0);
    process.wait();
    process.ptrace(libc::PTRACE_DETACH, 0);
    assert!(busy.target.is_alive());
    images
}

fn images_of(pid: u32) -> Vec<MappedImage> {
    let mappings = maps::read(pid).unwrap();
    mappings.iter().filter(|mapping| mapping.executable).filter_map(|mapping| image_at(pid, mapping)).collect()
}

/// What is mapped as code, if it has call frame information.
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
