//! System calls of bpf(2) that aya 0.14 does not make: uprobe_multi links (Linux 6.6), uprobe sessions (Linux 6.13), the programs for
//! both, and links to tracepoints that are not to be looked up in a mounted tracefs.

use std::{
    ffi::{CStr, CString, c_int},
    io,
    num::NonZeroU32,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::Pod;
use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type};

use super::{point::Point, probe_kind::When};

/// `BPF_TRACE_UPROBE_SESSION` of `<linux/bpf.h>`, Linux 6.13; newer than the bindings.
const UPROBE_SESSION: u32 = 57;
const UPROBE_MULTI: u32 = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
/// `BPF_F_UPROBE_MULTI_RETURN` of `<linux/bpf.h>`.
const AT_RETURN: u32 = 1;

/// Most bytes of a program's name: `BPF_OBJ_NAME_LEN` of `<linux/bpf.h>` without the zero at its end.
const NAME_BYTES: usize = 15;

fn attach_type(when: When) -> u32 {
    if when == When::Both { UPROBE_SESSION } else { UPROBE_MULTI }
}

/// A program for probes, ready to be loaded.
pub(super) struct Code<'a> {
    pub(super) name: &'a str,
    pub(super) license: &'a CStr,
    pub(super) instructions: &'a [bpf_insn],
    /// The type information of the object, and where in it the functions are: the kernel tells callbacks by it.
    pub(super) functions: Option<Functions<'a>>,
}

/// Records about the functions of a program.
pub(super) struct Functions<'a> {
    pub(super) btf: BorrowedFd<'a>,
    pub(super) bytes: &'a [u8],
    pub(super) count: usize,
    pub(super) record_bytes: usize,
}

/// Loads a program for links that run it at `when`.
///
/// # Errors
/// Where the kernel refuses it.
pub(super) fn load_program(code: &Code<'_>, when: When) -> io::Result<OwnedFd> {
    let mut attr = empty_attr();
    // SAFETY: the part of the union that belongs to `BPF_PROG_LOAD`.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32;
    load.expected_attach_type = attach_type(when);
    load.insns = code.instructions.as_ptr() as u64;
    load.insn_cnt = count(code.instructions.len())?;
    load.license = code.license.as_ptr() as u64;
    for (to, from) in load.prog_name.iter_mut().zip(code.name.bytes().take(NAME_BYTES)) {
        *to = from.cast_signed();
    }
    if let Some(functions) = &code.functions {
        load.prog_btf_fd = functions.btf.as_raw_fd().cast_unsigned();
        load.func_info = functions.bytes.as_ptr() as u64;
        load.func_info_cnt = count(functions.count)?;
        load.func_info_rec_size = count(functions.record_bytes)?;
    }
    let refused = match descriptor_of(bpf_cmd::BPF_PROG_LOAD, &mut attr) {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    log::info!("the BPF program `{}` was refused ({refused}): {}", code.name, verifier_log(&mut attr));
    Err(refused)
}

/// Tries once more to load what was refused, for the reasons of the verifier.
fn verifier_log(attr: &mut bpf_attr) -> String {
    let mut text = vec![0u8; 1 << 20];
    // SAFETY: the part of the union that belongs to `BPF_PROG_LOAD`.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.log_level = 1;
    load.log_buf = text.as_mut_ptr() as u64;
    load.log_size = 1 << 20;
    _ = descriptor_of(bpf_cmd::BPF_PROG_LOAD, attr);
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    String::from_utf8_lossy(&text[..end]).into_owned()
}

/// Attaches a program to these points of the file at `path`: in the process `pid`, or in every process.
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn link_probes(
    program: &OwnedFd,
    when: When,
    pid: Option<NonZeroU32>,
    path: &Path,
    points: &[Point],
) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let offsets: Vec<u64> = points.iter().map(|point| point.file_offset).collect();
    let cookies: Vec<u64> = points.iter().map(|point| point.cookie).collect();
    link_raw(program, when, pid.map_or(0, NonZeroU32::get), &path, &offsets, &cookies)
}

fn link_raw(
    program: &OwnedFd,
    when: When,
    pid: u32,
    path: &CStr,
    offsets: &[u64],
    cookies: &[u64],
) -> io::Result<OwnedFd> {
    let mut attr = empty_attr();
    // SAFETY: the part of the union that belongs to `BPF_LINK_CREATE`.
    let create = unsafe { &mut attr.link_create };
    create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    create.attach_type = attach_type(when);
    // SAFETY: the part of the union that belongs to this type of attachment.
    let multi = unsafe { &mut create.__bindgen_anon_3.uprobe_multi };
    multi.path = path.as_ptr() as u64;
    multi.offsets = offsets.as_ptr() as u64;
    multi.cookies = cookies.as_ptr() as u64;
    multi.cnt = count(offsets.len())?;
    multi.flags = if when == When::Return { AT_RETURN } else { 0 };
    multi.pid = pid;
    descriptor_of(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Runs a program whenever a perf event happens, until what is returned is dropped (Linux 5.15).
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn link_to_event(program: BorrowedFd<'_>, event: RawFd) -> io::Result<OwnedFd> {
    let mut attr = empty_attr();
    // SAFETY: the part of the union that belongs to `BPF_LINK_CREATE`.
    let create = unsafe { &mut attr.link_create };
    create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    create.__bindgen_anon_2.target_fd = event.cast_unsigned();
    create.attach_type = bpf_attach_type::BPF_PERF_EVENT as u32;
    descriptor_of(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Whether the kernel takes links of this program, and with a process means all of its threads.
///
/// Older kernels know nothing of such links, and say that of any; who knows them finds that this is no file. The first
/// versions meant one thread of a process; those that refuse the process -1 mean all (Linux 6.10, 6.9.4, 6.6.33).
pub(super) fn is_known(program: &OwnedFd, when: When) -> bool {
    let answer =
        |pid, path: &CStr| link_raw(program, when, pid, path, &[0], &[0]).map_err(|error| error.raw_os_error());
    answer(0, c"/").is_err_and(|error| error == Some(libc::EBADF))
        && answer(u32::MAX, c"/").is_err_and(|error| error == Some(libc::EINVAL))
}

/// Gives the kernel type information.
///
/// # Errors
/// Where it refuses.
pub(super) fn load_btf(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = empty_attr();
    // SAFETY: the part of the union that belongs to `BPF_BTF_LOAD`.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = bytes.as_ptr() as u64;
    load.btf_size = count(bytes.len())?;
    descriptor_of(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// A part of a hash table.
pub(super) struct Batch {
    /// How many entries were read.
    pub(super) count: usize,
    /// Where the next ones stand; `None` after the last.
    pub(super) next: Option<u32>,
}

/// Reads entries of a hash table, as many as there is room for, from where the last batch ended (Linux 5.6).
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn read_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<Batch> {
    let mut next = 0u32;
    let mut attr = empty_attr();
    // SAFETY: the part of the union that belongs to `BPF_MAP_LOOKUP_BATCH`.
    let batch = unsafe { &mut attr.batch };
    batch.in_batch = from.as_ref().map_or(0, |from| &raw const *from as u64);
    batch.out_batch = &raw mut next as u64;
    batch.keys = keys.as_mut_ptr() as u64;
    batch.values = values.as_mut_ptr() as u64;
    batch.count = count(keys.len().min(values.len()))?;
    batch.map_fd = map.as_raw_fd().cast_unsigned();
    let called = call(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
    // SAFETY: as above; the kernel has written how many there are.
    let count = unsafe { attr.batch.count } as usize;
    match called {
        Ok(_) => Ok(Batch { count, next: Some(next) }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Batch { count, next: None }),
        Err(error) => Err(error),
    }
}

/// Takes an entry out of a hash table.
///
/// # Errors
/// Where it is not there.
pub(super) fn remove<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let mut attr = empty_attr();
    // SAFETY: the part of the union that belongs to `BPF_MAP_DELETE_ELEM`.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd().cast_unsigned();
    element.key = &raw const *key as u64;
    call(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr).map(drop)
}

/// The attributes of a `bpf` system call, as yet none.
fn empty_attr() -> bpf_attr {
    // SAFETY: all zeros is a valid value of this union of plain integers.
    unsafe { std::mem::zeroed() }
}

/// A `bpf` system call that returns a new file descriptor.
fn descriptor_of(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let descriptor = call(command, attr)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A `bpf` system call. Returns its result.
fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<c_int> {
    // SAFETY: `attr` is the union that the kernel expects, and what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as c_int, &raw mut *attr, size_of::<bpf_attr>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    c_int::try_from(result).map_err(io::Error::other)
}

fn count(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(io::Error::other)
}
