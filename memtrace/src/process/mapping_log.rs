//! Which files processes have mapped as code, told by the kernel as it happens (`PERF_RECORD_MMAP2` of
//! perf_event_open(2)): for processes that end before anybody could look into `/proc`.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use perf_event::{Builder, Sampler, data::Record, events::Software};

use super::{
    maps::{FileId, Mapping},
    status,
};

/// The room for records that were not read yet, on each CPU, in bytes: about five thousand mappings.
const RING_BYTES: usize = 512 << 10;
/// How often what is known of processes that are gone is forgotten.
const FORGETTING: Duration = Duration::from_secs(10);

/// The mappings that one process has told.
#[derive(Debug, Default)]
pub struct MappedCode {
    /// Its mappings of code, oldest first.
    pub mappings: Vec<Mapping>,
    /// Its short name, where it has taken one.
    pub comm: Option<String>,
    /// Whether it runs a program that it has begun itself, by exec.
    has_begun_program: bool,
    /// Whether it was gone at the last forgetting.
    was_gone: bool,
}

/// The mappings that processes of the host have told since the log was opened, or since they were last asked for.
pub struct MappingLog {
    rings: Vec<Sampler>,
    told: HashMap<u32, MappedCode>,
    forgotten: Instant,
}

impl MappingLog {
    /// Opens the log for every process of the host.
    ///
    /// # Errors
    /// Where the kernel refuses it (it takes CAP_PERFMON).
    pub fn open() -> io::Result<Self> {
        let rings = online_cpus()?.into_iter().map(|cpu| {
            let mut builder = Builder::new(Software::DUMMY);
            // A dummy counts nothing; what is wanted are the records beside it.
            builder.any_pid().one_cpu(cpu).mmap(true).mmap2(true).comm(true).enabled(true);
            builder.include_kernel().build()?.sampled(RING_BYTES)
        });
        let rings = rings.collect::<io::Result<_>>()?;
        Ok(Self { rings, told: HashMap::new(), forgotten: Instant::now() })
    }

    /// Takes in what was told by now. Records that found no room are lost: they cost names, no figures.
    pub fn read(&mut self) {
        for ring in &mut self.rings {
            while let Some(record) = ring.next_record() {
                let is_exec = record.misc() & COMM_EXEC != 0;
                match record.parse_record() {
                    Ok(Record::Mmap2(mmap)) if is_visible(mmap.pid) => {
                        let (Some(file), true) = (file_of(&mmap), mmap.prot & EXECUTABLE != 0) else { continue };
                        let mapping = Mapping {
                            start: mmap.addr,
                            end: mmap.addr.saturating_add(mmap.len),
                            readable: true,
                            writable: false,
                            executable: true,
                            shared: false,
                            file_offset: mmap.pgoff,
                            file: Some(file),
                            path: PathBuf::from(OsString::from_vec(mmap.filename.to_vec())),
                            deleted: false,
                        };
                        self.told.entry(mmap.pid).or_default().mappings.push(mapping);
                    }
                    Ok(Record::Comm(comm)) if comm.pid == comm.tid && is_visible(comm.pid) => {
                        let name = status::printable(&String::from_utf8_lossy(&comm.comm));
                        let told = self.told.entry(comm.pid).or_default();
                        told.comm = Some(name);
                        told.has_begun_program |= is_exec;
                    }
                    _ => {}
                }
            }
        }
        if self.forgotten.elapsed() > FORGETTING {
            self.forgotten = Instant::now();
            // Not at once: whoever has just ended is still to be asked for.
            self.told.retain(|pid, told| {
                let is_gone = !Path::new(&format!("/proc/{pid}")).exists();
                !(std::mem::replace(&mut told.was_gone, is_gone) && is_gone)
            });
        }
    }

    /// A process has forked a `child`, which tells nothing of the mappings that it has from its parent.
    pub fn fork(&mut self, parent: u32, child: u32) {
        let Some(MappedCode { mappings, comm, .. }) = self.told.get(&parent) else { return };
        let (mappings, comm) = (mappings.clone(), comm.clone());
        let told = self.told.entry(child).or_default();
        if !told.has_begun_program {
            told.mappings.splice(..0, mappings);
            told.comm = told.comm.take().or(comm);
        }
    }

    /// The mappings that a process has told since it was last asked for.
    pub fn take(&mut self, pid: u32) -> MappedCode {
        self.told.remove(&pid).unwrap_or_default()
    }
}

/// Whether a process has a number in memtrace's pid namespace: the kernel calls others 0 or -1.
fn is_visible(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| pid > 0)
}

/// `PERF_RECORD_MISC_COMM_EXEC` of `<linux/perf_event.h>`: a process has a new name because it begins a program.
const COMM_EXEC: u16 = 1 << 13;
/// `PROT_EXEC` of `<sys/mman.h>`.
const EXECUTABLE: u32 = 4;

fn file_of(mmap: &perf_event::data::Mmap2<'_>) -> Option<FileId> {
    let (Some(major), Some(minor), Some(inode)) = (mmap.maj(), mmap.min(), mmap.ino()) else { return None };
    (inode != 0).then_some(FileId { device: (major, minor), inode })
}

/// The CPUs that are running, as `/sys/devices/system/cpu/online` has them: `0-3,6`.
fn online_cpus() -> io::Result<Vec<usize>> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online")?;
    cpu_list(text.trim())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no list of CPUs: {text:?}")))
}

fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn lists_of_cpus_are_understood() {
        assert_eq!(cpu_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(cpu_list("0"), Some(vec![0]));
        assert_eq!(cpu_list("x"), None);
    }

    #[test]
    fn a_process_that_is_gone_has_told_what_it_had_mapped() {
        let mut log = MappingLog::open().unwrap();
        let child = Command::new("/bin/true").spawn().unwrap();
        let pid = child.id();
        child.wait_with_output().unwrap();
        log.read();
        let told = log.take(pid);
        assert_eq!(told.comm.as_deref(), Some("true"));
        assert!(told.mappings.iter().any(|mapping| mapping.path.ends_with("true")), "{told:?}");
        assert!(told.mappings.iter().any(|mapping| mapping.path.to_string_lossy().contains("libc.so")), "{told:?}");
    }

    #[test]
    fn a_forked_process_has_what_its_parent_had_mapped_until_it_begins_a_program() {
        let mut log = MappingLog::open().unwrap();
        // The child of the first goes on as a shell, that of the second runs a program.
        let [shell, program] = ["(exit 3) & echo $$ $!; wait", "/bin/true & echo $$ $!; wait"].map(|script| {
            let output = Command::new("/bin/sh").args(["-c", script]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let (parent, child) = text.trim().split_once(' ').unwrap();
            let (parent, child) = (parent.parse().unwrap(), child.parse().unwrap());
            log.read();
            log.fork(parent, child);
            log.take(child)
        });
        let has = |told: &MappedCode, name: &str| {
            told.mappings.iter().any(|mapping| mapping.path.to_string_lossy().contains(name))
        };
        assert!(has(&shell, "sh") && has(&shell, "libc.so"), "{shell:?}");
        assert_eq!(shell.comm.as_deref(), Some("sh"));
        assert!(has(&program, "true") && !has(&program, "sh"), "{program:?}");
        assert_eq!(program.comm.as_deref(), Some("true"));
    }
}
