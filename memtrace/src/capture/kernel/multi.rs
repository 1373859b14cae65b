//! Links that aya 0.14 does not know. For uprobe_multi (Linux 6.6) and uprobe sessions (Linux 6.13) the object
//! is parsed and relocated once more against the maps that aya made, and two system calls do the rest; for tracepoints
//! that are not to be looked up in a mounted tracefs, one does.

use std::{
    collections::HashSet,
    ffi::{CStr, CString, c_int},
    io,
    num::NonZeroU32,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use aya_obj::{
    Object,
    generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type},
};

use super::probes::Point;

/// `BPF_TRACE_UPROBE_SESSION` of `<linux/bpf.h>`, Linux 6.13; newer than the bindings.
const UPROBE_SESSION: u32 = 57;
const UPROBE_MULTI: u32 = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
/// `BPF_F_UPROBE_MULTI_RETURN` of `<linux/bpf.h>`.
const AT_RETURN: u32 = 1;

/// Most bytes of a program's name: `BPF_OBJ_NAME_LEN` of `<linux/bpf.h>` without the zero at its end.
const NAME_BYTES: usize = 15;

/// When a program of such a link runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum When {
    /// At the entry, or wherever the probe is.
    Entry,
    /// At the function's return.
    Return,
    /// At both: a session.
    Both,
}

impl When {
    fn attach_type(self) -> u32 {
        if self == Self::Both { UPROBE_SESSION } else { UPROBE_MULTI }
    }
}

/// The programs of the object, ready to be loaded for such links.
pub(super) struct MultiObject {
    object: Object,
    btf: Option<OwnedFd>,
}

impl MultiObject {
    /// Parses the object and relocates it against the maps of `ebpf`, which was made from the same bytes.
    pub(super) fn parse(bytes: &[u8], ebpf: &Ebpf) -> io::Result<Self> {
        let mut object = Object::parse(bytes).map_err(io::Error::other)?;
        let btf = match aya::features().btf() {
            Some(features) => object.fixup_and_sanitize_btf(features).map_err(io::Error::other)?,
            None => None,
        };
        let btf = btf.map(|btf| load_btf(&btf.to_bytes())).transpose()?;
        let maps = std::mem::take(&mut object.maps);
        let known = maps.iter().filter_map(|(name, map)| Some((name.as_str(), descriptor(ebpf.map(name)?)?, map)));
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(known, &sections).map_err(io::Error::other)?;
        object.relocate_calls(&sections).map_err(io::Error::other)?;
        object.sanitize_functions(aya::features());
        Ok(Self { object, btf })
    }

    /// Loads a program for links that run it at `when`.
    ///
    /// # Errors
    /// Where there is no such program, or the kernel refuses it.
    pub(super) fn load(&self, name: &str, when: When) -> io::Result<OwnedFd> {
        let program = self.object.programs.get(name).ok_or(io::ErrorKind::NotFound)?;
        let function = self.object.functions.get(&program.function_key()).ok_or(io::ErrorKind::NotFound)?;
        let functions = function.func_info.func_info_bytes();
        // SAFETY: all zeros is a valid value of this union of plain integers.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the part of the union that belongs to `BPF_PROG_LOAD`.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32;
        load.expected_attach_type = when.attach_type();
        load.insns = function.instructions.as_ptr() as u64;
        load.insn_cnt = count(function.instructions.len())?;
        load.license = program.license.as_ptr() as u64;
        for (to, from) in load.prog_name.iter_mut().zip(name.bytes().take(NAME_BYTES)) {
            *to = from.cast_signed();
        }
        // The kernel tells callbacks by them.
        if let Some(btf) = &self.btf {
            load.prog_btf_fd = btf.as_raw_fd().cast_unsigned();
            load.func_info = functions.as_ptr() as u64;
            load.func_info_cnt = count(function.func_info.func_info.len())?;
            load.func_info_rec_size = count(function.func_info_rec_size)?;
        }
        let refused = match descriptor_of(bpf_cmd::BPF_PROG_LOAD, &mut attr) {
            Ok(program) => return Ok(program),
            Err(error) => error,
        };
        log::info!("the BPF program `{name}` was refused ({refused}): {}", verifier_log(&mut attr));
        Err(refused)
    }
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
pub(super) fn link(
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
    // SAFETY: all zeros is a valid value of this union of plain integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the part of the union that belongs to `BPF_LINK_CREATE`.
    let create = unsafe { &mut attr.link_create };
    create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    create.attach_type = when.attach_type();
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
    // SAFETY: all zeros is a valid value of this union of plain integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
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

fn load_btf(bytes: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: all zeros is a valid value of this union of plain integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the part of the union that belongs to `BPF_BTF_LOAD`.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = bytes.as_ptr() as u64;
    load.btf_size = count(bytes.len())?;
    descriptor_of(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// A `bpf` system call that returns a new file descriptor.
fn descriptor_of(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is the union that the kernel expects, and what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as c_int, &raw mut *attr, size_of::<bpf_attr>()) };
    let descriptor = RawFd::try_from(result).map_err(io::Error::other)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn descriptor(map: &Map) -> Option<RawFd> {
    super::map_data(map).map(|data: &MapData| data.fd().as_fd().as_raw_fd())
}

fn count(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(io::Error::other)
}
