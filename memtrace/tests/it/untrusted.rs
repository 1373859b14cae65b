//! Files that somebody has made to mislead or break who reads them: they cost names, never the run, and what reads them has
//! nothing to lose. (That a pipe or a device is not opened: process/open.rs.)

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use object::{Object, ObjectSection, elf::FileHeader64, read::elf::ElfFile};
use serde_json::Value;

use crate::support::{
    FRAME_POINTERS, InTime, Signal, Target, Tracing,
    cgroup::{Cgroup, inside},
    compile, eventually, memtrace, process, report, reports_so_far, scratch, signal, state, sum_at,
};

/// The program of two phases in a folder of one's own.
fn phases(folder: &Path) -> PathBuf {
    phases_as(folder, "phases")
}

/// The same, under a name of one's own.
fn phases_as(folder: &Path, name: &str) -> PathBuf {
    let program = folder.join(name);
    fs::copy(compile("phases.c", &FRAME_POINTERS), &program).unwrap();
    program
}

/// The program, waiting for its first line.
fn waiting(program: &Path) -> Target {
    let mut target = Target::start(Command::new(program).arg("wait"));
    assert_eq!(target.line(), "ready");
    target
}

/// Lets a phase begin, and waits for its end.
fn go(target: &mut Target, phase: &str) {
    target.say("go");
    assert_eq!(target.line(), phase);
}

/// A line of /proc/PID/status.
fn status_of(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

/// The process that reads symbols for a memtrace.
fn reader_of(tracing: &Tracing) -> u32 {
    let pid = tracing.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap_or_else(|_| panic!("one child: {children:?}"))
}

/// Asks memtrace to stop, and takes its report from a file.
fn stopped(tracing: Tracing, output: &Path) -> (Value, String) {
    tracing.signal(Signal::INT);
    let (status, _, messages) = tracing.finish();
    assert_eq!(status, 0, "{messages}");
    (report(output), messages)
}

/// The frames of the sites whose outermost known place is in an image of that name: why they have no function.
fn unresolved_in<'a>(process: &'a Value, image: &str) -> Vec<&'a str> {
    let sites = process["sites"].as_array().unwrap().iter();
    let frames = sites.flat_map(|site| site["frames"].as_array().unwrap());
    let within = frames.filter(|frame| frame["image"].as_str().is_some_and(|path| path.ends_with(image)));
    within.filter_map(|frame| frame["unresolved"].as_str()).collect()
}

/// Traces a program that has ended, and whose path was given to something else, before memtrace came to open it. Its name is no
/// other program's.
fn trace_the_dead(name: &str, replace: impl FnOnce(&Path)) -> Value {
    let folder = scratch();
    let (program, output) = (phases_as(folder.path(), name), folder.path().join("report.json"));
    let tracing = Tracing::start(&["--comm", name, "--format", "json", "-o", output.to_str().unwrap()]);
    tracing.hold();
    assert!(Command::new(&program).status_in_time().success());
    fs::rename(&program, folder.path().join("gone")).unwrap();
    replace(&program);
    tracing.signal(Signal::CONT);
    let (report, _) = stopped(tracing, &output);
    let process = process(&report).clone();
    assert_eq!(process["alloc_objects"], 200, "{process:#}");
    process
}

#[test]
fn a_program_that_has_ended_is_known_by_its_path_while_that_leads_to_it() {
    let process = trace_the_dead("phases-back", |path| fs::rename(path.with_file_name("gone"), path).unwrap());
    assert_eq!(sum_at(&process, "first_phase", "live_bytes"), 100_000, "{process:#}");
}

#[test]
fn what_took_the_place_of_a_program_that_has_ended_is_neither_opened_nor_taken_for_it() {
    type Replace = fn(&Path);
    let replacements: [(&str, Replace); 5] = [
        ("a pipe, whose opening waits for a writer", |path| {
            assert!(Command::new("mkfifo").arg(path).status_in_time().success());
        }),
        ("a device", |path| {
            assert!(Command::new("mknod").arg(path).args(["c", "1", "5"]).status_in_time().success());
        }),
        ("a link to a device", |path| symlink("/dev/ptmx", path).unwrap()),
        ("another file with the same content", |path| {
            fs::copy(path.with_file_name("gone"), path).unwrap();
        }),
        ("a folder", |path| fs::create_dir(path).unwrap()),
    ];
    for (what, replace) in replacements {
        let process = trace_the_dead("phases-gone", replace);
        let why = unresolved_in(&process, "/phases-gone");
        assert!(!why.is_empty() && why.iter().all(|why| *why == "the image cannot be read"), "{what}: {process:#}");
    }
}

/// A 64 GiB file that takes no disk, whose headers claim a table of symbols of 3 GiB.
fn sparse_image(path: &Path) {
    const GIB: u64 = 1 << 30;
    let file = File::create_new(path).unwrap();
    file.set_len(64 * GIB).unwrap();
    let mut header = [0u8; 64];
    header[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    // e_type, e_machine, e_version, e_shoff, e_ehsize, e_shentsize, e_shnum, e_shstrndx: elf(5).
    for (at, bytes) in [
        (16, &3u16.to_le_bytes()[..]),
        (18, &62u16.to_le_bytes()),
        (20, &1u32.to_le_bytes()),
        (40, &(60 * GIB).to_le_bytes()),
        (52, &64u16.to_le_bytes()),
        (58, &64u16.to_le_bytes()),
        (60, &3u16.to_le_bytes()),
        (62, &2u16.to_le_bytes()),
    ] {
        header[at..at + bytes.len()].copy_from_slice(bytes);
    }
    file.write_all_at(&header, 0).unwrap();
    // sh_type, sh_offset, sh_size, sh_link, sh_entsize of a table of symbols and one of strings.
    for (index, kind, offset, size, link, entry) in [(1, 2u32, GIB, 3 * GIB, 2u32, 24u64), (2, 3, 4 * GIB, GIB, 0, 0)] {
        let mut section = [0u8; 64];
        section[4..8].copy_from_slice(&kind.to_le_bytes());
        section[24..32].copy_from_slice(&offset.to_le_bytes());
        section[32..40].copy_from_slice(&size.to_le_bytes());
        section[40..44].copy_from_slice(&link.to_le_bytes());
        section[56..64].copy_from_slice(&entry.to_le_bytes());
        file.write_all_at(&section, 60 * GIB + 64 * index).unwrap();
    }
}

#[test]
fn an_image_of_64_gib_that_takes_no_disk_takes_no_memory() {
    let folder = scratch();
    let (image, output) = (folder.path().join("sparse.so"), folder.path().join("report.json"));
    sparse_image(&image);
    let script = format!(
        "import mmap, time\n\
         f = open({image:?}, 'rb')\n\
         m = mmap.mmap(f.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)\n\
         print('mapped', flush=True)\n\
         kept = []\n\
         while True:\n    kept.append(bytearray(5000)); time.sleep(0.001)\n",
    );
    let mut target = Target::start(Command::new("/usr/bin/python3").args(["-c", &script]));
    assert_eq!(target.line(), "mapped");
    let pid = target.pid().to_string();
    let tracing = Tracing::start(&["-v", "--pid", &pid, "--format", "json", "-o", output.to_str().unwrap()]);
    thread::sleep(Duration::from_secs(1));
    let peak_kib: u64 = status_of(tracing.pid(), "VmHWM").trim_end_matches(" kB").parse().unwrap();
    let (report, messages) = stopped(tracing, &output);
    assert!(process(&report)["live_bytes"].as_u64().unwrap() > 100_000);
    assert!(messages.contains("sparse.so as an ELF file"), "{messages}");
    assert!(peak_kib < 700 << 10, "{peak_kib} KiB");
    assert!(target.is_alive());
}

#[test]
fn a_program_that_ends_in_gigabytes_of_nothing_is_traced_and_its_symbols_are_not_read() {
    let folder = scratch();
    let program = phases(folder.path());
    OpenOptions::new().write(true).open(&program).unwrap().set_len(8 << 30).unwrap();
    let mut target = waiting(&program);
    let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "json"]);
    go(&mut target, "first");
    let report = tracing.stop();
    assert_eq!(process(&report)["alloc_objects"], 100);
    let why = unresolved_in(process(&report), "/phases");
    assert!(!why.is_empty() && why.iter().all(|why| *why == "the image cannot be read"), "{report:#}");
}

/// A copy of a program whose debug information is compressed.
fn compressed(folder: &Path, how: &str) -> PathBuf {
    let (plain, program) = (compile("phases.c", &FRAME_POINTERS), folder.join(format!("phases-{how}")));
    let mut command = Command::new("objcopy");
    command.arg(format!("--compress-debug-sections={how}")).args([&plain, &program]);
    assert!(command.status_in_time().success());
    program
}

/// Traces the first phase of a program, whose figures are exact and whose function is named.
fn trace_first_phase(program: &Path) -> Value {
    let mut target = waiting(program);
    let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "json"]);
    go(&mut target, "first");
    let report = tracing.stop();
    assert_eq!(sum_at(process(&report), "first_phase", "live_bytes"), 100_000, "{report:#}");
    assert!(target.is_alive());
    process(&report)["sites"][0]["frames"][0].clone()
}

#[test]
fn compressed_debug_information_is_read() {
    let folder = scratch();
    for how in ["zlib", "zstd"] {
        let frame = trace_first_phase(&compressed(folder.path(), how));
        assert!(frame["file"].as_str().is_some_and(|file| file.ends_with("phases.c")), "{how}: {frame}");
    }
}

#[test]
fn a_compressed_section_that_claims_a_tebibyte_costs_lines_alone() {
    let folder = scratch();
    let program = compressed(folder.path(), "zlib");
    let bytes = fs::read(&program).unwrap();
    let elf = ElfFile::<FileHeader64<object::LittleEndian>>::parse(&*bytes).unwrap();
    let (offset, _) = elf.section_by_name(".debug_info").unwrap().file_range().unwrap();
    // ch_size of the section's Elf64_Chdr: elf(5).
    let file = OpenOptions::new().write(true).open(&program).unwrap();
    file.write_all_at(&(1u64 << 40).to_le_bytes(), offset + 8).unwrap();
    drop(file);
    let frame = trace_first_phase(&program);
    assert_eq!(frame["file"], Value::Null, "{frame}");
}

/// A stripped copy of the program, and its debug file beside it, to which it has a link.
fn stripped(folder: &Path, flags: &[&str]) -> (PathBuf, PathBuf) {
    let plain = compile("phases.c", &[&FRAME_POINTERS[..], flags].concat());
    let (program, debug) = (folder.join("phases"), folder.join("phases.debug"));
    let objcopy = |arguments: &[&str], files: &[&Path]| {
        assert!(Command::new("objcopy").args(arguments).args(files).status_in_time().success());
    };
    objcopy(&["--only-keep-debug"], &[&plain, &debug]);
    let link = format!("--add-gnu-debuglink={}", debug.to_str().unwrap());
    objcopy(&["--strip-all", &link], &[&plain, &program]);
    (program, debug)
}

#[test]
fn a_separate_debug_file_is_read_if_it_is_the_images_own() {
    // With a build id it is known by that, without by its checksum.
    for flags in [[].as_slice(), &["-Wl,--build-id=none"]] {
        let folder = scratch();
        let (program, debug) = stripped(folder.path(), flags);
        let frame = trace_first_phase(&program);
        assert!(frame["file"].as_str().is_some_and(|file| file.ends_with("phases.c")), "{flags:?}: {frame}");
        // Another's: of another build id, and of another checksum.
        fs::remove_file(&debug).unwrap();
        let other = compile("phases.c", &["-O1", "-Wl,--build-id=sha1"]);
        fs::copy(other, &debug).unwrap();
        let mut target = waiting(&program);
        let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "json"]);
        go(&mut target, "first");
        let report = tracing.stop();
        let why = unresolved_in(process(&report), "/phases");
        assert!(
            !why.is_empty() && why.iter().all(|why| *why == "the image has no symbol here"),
            "{flags:?}: {report:#}"
        );
        target.kill();
    }
}

#[test]
fn an_image_that_is_shortened_while_it_is_read_costs_its_names() {
    let folder = scratch();
    let (program, output) = (phases(folder.path()), folder.path().join("report.json"));
    let mut target = waiting(&program);
    let pid = target.pid().to_string();
    let arguments = ["--pid", &pid, "--format", "json", "--interval", "200ms", "-o", output.to_str().unwrap()];
    let tracing = Tracing::start(&arguments);
    go(&mut target, "first");
    // Once the reading process has the image, its first phase is named.
    eventually("the first phase is named", || reports_so_far(&output, tracing.pid()).contains("first_phase"));
    tracing.hold();
    go(&mut target, "second");
    target.say("end");
    eventually("the target ends", || state(target.pid()).is_none_or(|state| state == 'Z'));
    OpenOptions::new().write(true).open(&program).unwrap().set_len(4096).unwrap();
    tracing.signal(Signal::CONT);
    let (status, _, messages) = tracing.finish();
    assert_eq!(status, 0, "{messages}");
    let text = fs::read_to_string(&output).unwrap();
    let last: Value = serde_json::from_str(text.trim().lines().last().unwrap()).unwrap();
    let process = process(&last);
    assert_eq!(process["alloc_objects"], 200);
    assert_eq!(sum_at(process, "first_phase", "live_bytes"), 100_000, "{process:#}");
    // The reader that had it mapped has ended over it; nothing is left for the next reader to map.
    let why = unresolved_in(process, "/phases");
    assert!(!why.is_empty() && why.iter().all(|why| *why == "the image cannot be read"), "{process:#}");
}

fn for_its_owner_alone(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn files_that_are_for_their_owner_alone_are_read_as_copies() {
    let folder = scratch();
    let (program, debug) = stripped(folder.path(), &[]);
    for path in [&program, &debug] {
        for_its_owner_alone(path);
    }
    let frame = trace_first_phase(&program);
    assert!(frame["file"].as_str().is_some_and(|file| file.ends_with("phases.c")), "{frame}");
}

#[test]
fn a_file_for_its_owner_alone_that_is_too_large_to_be_copied_has_no_names_and_says_so() {
    let folder = scratch();
    let (program, output) = (phases(folder.path()), folder.path().join("report.json"));
    for_its_owner_alone(&program);
    assert!(Command::new("fallocate").args(["-l", "257MiB"]).arg(&program).status_in_time().success());
    let mut target = waiting(&program);
    let pid = target.pid().to_string();
    let tracing = Tracing::start(&["--pid", &pid, "--format", "json", "-o", output.to_str().unwrap()]);
    go(&mut target, "first");
    let (report, messages) = stopped(tracing, &output);
    let why = unresolved_in(process(&report), "/phases");
    assert!(!why.is_empty() && why.iter().all(|why| *why == "the image cannot be read"), "{report:#}");
    assert!(
        messages.contains("there is no copy of it: file too large") && messages.contains("hint: let others read"),
        "{messages}"
    );
}

/// Asserts what a process that reads symbols has left.
fn assert_confined(reader: u32) {
    for (name, value) in [
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapInh", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Uid", "65534\t65534\t65534\t65534"),
        ("Gid", "65534\t65534\t65534\t65534"),
        ("Groups", ""),
    ] {
        assert_eq!(status_of(reader, name), value, "{name}");
    }
    // The standard ones, and the one socket.
    let open = fs::read_dir(format!("/proc/{reader}/fd")).unwrap().count();
    assert_eq!(open, 4, "{:?}", fs::read_dir(format!("/proc/{reader}/fd")).unwrap().collect::<Vec<_>>());
    let root = fs::read_link(format!("/proc/{reader}/root")).unwrap();
    assert!(root.ends_with("fd"), "{}", root.display());
}

#[test]
fn what_reads_symbols_has_nothing_to_lose_and_ends_with_memtrace() {
    let folder = scratch();
    for end in [Signal::INT, Signal::KILL] {
        let mut target = waiting(&phases(folder.path()));
        let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "json"]);
        go(&mut target, "first");
        let reader = reader_of(&tracing);
        assert_confined(reader);
        tracing.signal(end);
        let (_, output, messages) = tracing.finish();
        assert!(end == Signal::KILL || output.contains("first_phase"), "{messages}");
        eventually("it ends", || state(reader).is_none_or(|state| state == 'Z'));
        target.kill();
        fs::remove_file(folder.path().join("phases")).unwrap();
    }
}

#[test]
fn signals_to_a_whole_group_or_unit_leave_the_last_report_its_names() {
    let folder = scratch();
    let mut target = waiting(&phases(folder.path()));
    let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "json"]);
    go(&mut target, "first");
    for name in [Signal::INT, Signal::TERM, Signal::HUP] {
        signal(reader_of(&tracing), name);
    }
    assert_eq!(sum_at(process(&tracing.stop()), "first_phase", "live_bytes"), 100_000);
}

#[test]
fn what_reads_symbols_is_begun_anew_and_never_a_target() {
    let folder = scratch();
    let output = folder.path().join("report.json");
    // memtrace is in the group that it traces, and what it starts is as well.
    let group = Cgroup::make();
    let mut target = waiting(&phases(folder.path()));
    group.add(target.pid());
    let mut command = memtrace();
    command.args(["--tier", "exact", "--format", "json", "-o", output.to_str().unwrap()]);
    command.args(["--cgroup", group.folder.to_str().unwrap()]);
    let mut tracing = Tracing::run(inside(&mut command, &group.folder));
    tracing.wait_for("memtrace: tracing ");
    let reader = reader_of(&tracing);
    let members = fs::read_to_string(group.folder.join("cgroup.procs")).unwrap();
    assert!(members.lines().any(|pid| pid == reader.to_string()), "{members}");
    signal(reader, Signal::KILL);
    eventually("it ends", || state(reader).is_none_or(|state| state == 'Z'));
    go(&mut target, "first");
    let (report, messages) = stopped(tracing, &output);
    let processes = report["processes"].as_array().unwrap();
    let of_target = processes.iter().find(|process| process["pid"] == target.pid()).unwrap();
    assert_eq!(sum_at(of_target, "first_phase", "live_bytes"), 100_000, "{messages}");
    assert!(processes.iter().all(|process| process["comm"] != "memtrace-names" && process["pid"] != reader));
    target.kill();
}

#[test]
fn an_image_over_which_time_runs_out_has_no_names_and_says_so() {
    let folder = scratch();
    let output = folder.path().join("report.json");
    let mut target = waiting(&phases(folder.path()));
    let pid = target.pid().to_string();
    let tracing = Tracing::start(&["--pid", &pid, "--format", "json", "-o", output.to_str().unwrap()]);
    go(&mut target, "first");
    // As if it were busy for ever with the first image that it is asked for.
    signal(reader_of(&tracing), Signal::STOP);
    let (report, messages) = stopped(tracing, &output);
    let late = "the process that reads symbols took too long for this image";
    let frames =
        process(&report)["sites"].as_array().unwrap().iter().flat_map(|site| site["frames"].as_array().unwrap());
    let images: std::collections::BTreeSet<&str> =
        frames.filter(|frame| frame["unresolved"] == late).filter_map(|frame| frame["image"].as_str()).collect();
    assert_eq!(images.len(), 1, "{report:#}");
    let told = format!("no names from {}: ", images.first().unwrap());
    assert!(messages.contains(&told) && messages.contains("hint: "), "{messages}");
}
