//! Which processes are to be targets, and how those are found that begin later.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use memtrace_common::wire::control::{Adoption, comm_words};
use thiserror::Error;

use crate::{
    bpf::point::Scope,
    process::{cgroup, helper::is_helper, status},
};

/// The processes to trace.
#[derive(Clone, Debug)]
pub enum Selection {
    /// Running processes.
    Pids(Vec<NonZeroU32>),
    /// A program to start, with its arguments.
    Command(Vec<OsString>),
    /// Every process of a short name, now or later.
    Comm(String),
    /// Every process in a cgroup or below, now or later.
    Cgroup(PathBuf),
    /// Every process of the host but memtrace itself, now or later.
    All,
}

/// Why a selection selects nothing.
#[derive(Debug, Error)]
pub enum SelectionError {
    /// There is no such cgroup.
    #[error("cannot trace the cgroup {}: {source}", path.display())]
    Cgroup {
        /// The path as given.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The processes of the host cannot be listed.
    #[error("cannot list the processes of /proc: {0}")]
    Processes(#[source] io::Error),
}

impl Selection {
    /// The selection by a short name, a cgroup or pids, whichever is given; nothing where none is. A pid that is named twice is one.
    #[must_use]
    pub fn named(comm: Option<&str>, cgroup: Option<&Path>, pids: &[NonZeroU32]) -> Option<Self> {
        let by_name = comm.map(|name| Self::Comm(name.to_owned()));
        let by_cgroup = || cgroup.map(|path| Self::Cgroup(path.to_owned()));
        let by_pid = || Self::Pids(pids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect());
        by_name.or_else(by_cgroup).or_else(|| (!pids.is_empty()).then(by_pid))
    }

    /// Which processes become targets by themselves. With `follow`, children of targets do.
    #[must_use]
    pub fn adoption(&self, follow: bool) -> Adoption {
        match self {
            Self::Pids(_) | Self::Command(_) if follow => Adoption::CHILDREN,
            Self::Pids(_) | Self::Command(_) => Adoption::default(),
            Self::Comm(_) => Adoption(Adoption::CHILDREN.0 | Adoption::COMM.0),
            Self::Cgroup(_) => Adoption(Adoption::CHILDREN.0 | Adoption::CGROUP.0),
            Self::All => Adoption(Adoption::CHILDREN.0 | Adoption::EVERYONE.0),
        }
    }

    /// Whether processes can come to be selected that nobody has named.
    #[must_use]
    pub fn begins_by_itself(&self) -> bool {
        self.adoption(false) != Adoption::default()
    }

    /// In which processes probes must fire.
    #[must_use]
    pub fn scope(&self, follow: bool) -> Scope {
        if self.adoption(follow) == Adoption::default() { Scope::Targets } else { Scope::EveryProcess }
    }

    /// The wanted short name, for the kernel side.
    #[must_use]
    pub fn comm(&self) -> [u64; 2] {
        match self {
            Self::Comm(name) => comm_words(name.as_bytes()),
            _ => [0; 2],
        }
    }

    /// The processes that are selected now, but memtrace itself and its helpers.
    ///
    /// # Errors
    /// Where they cannot be listed.
    pub fn processes(&self) -> Result<Vec<NonZeroU32>, SelectionError> {
        let all = match self {
            Self::Pids(pids) => pids.clone(),
            Self::Command(_) => Vec::new(),
            Self::Comm(name) => {
                let is_called = |pid: &NonZeroU32| {
                    status::comm(pid.get()).is_ok_and(|comm| comm_words(comm.as_bytes()) == comm_words(name.as_bytes()))
                };
                host_processes()?.into_iter().filter(is_called).collect()
            }
            Self::Cgroup(path) => {
                let folder =
                    find_cgroup(path).map_err(|source| SelectionError::Cgroup { path: path.clone(), source })?;
                cgroup_processes(&folder).map_err(|source| SelectionError::Cgroup { path: path.clone(), source })?
            }
            Self::All => host_processes()?,
        };
        let is_own = |pid: u32| pid == std::process::id() || is_helper(pid);
        Ok(all.into_iter().filter(|pid| !is_own(pid.get())).collect())
    }

    /// The folder of the cgroup that is selected, opened for the kernel side.
    ///
    /// # Errors
    /// Where there is none.
    pub fn open_cgroup(&self) -> Result<Option<File>, SelectionError> {
        let Self::Cgroup(path) = self else { return Ok(None) };
        let opened = find_cgroup(path).and_then(File::open);
        opened.map(Some).map_err(|source| SelectionError::Cgroup { path: path.clone(), source })
    }
}

fn host_processes() -> Result<Vec<NonZeroU32>, SelectionError> {
    let entries = fs::read_dir("/proc").map_err(SelectionError::Processes)?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // Threads of the kernel run no program.
    Ok(pids.filter(|pid: &NonZeroU32| status::exe(pid.get()).is_ok()).collect())
}

/// The folder of a cgroup, given as such or as `/proc/PID/cgroup` has it (`/system.slice/redis.service`).
fn find_cgroup(path: &Path) -> io::Result<PathBuf> {
    // Groups of cgroup v1 have `cgroup.procs` as well, and nobody can ask the kernel whether a task is in one.
    let is_cgroup = |folder: &Path| folder.join("cgroup.controllers").exists();
    if is_cgroup(path) {
        return Ok(path.to_owned());
    }
    let relative = path.strip_prefix("/").unwrap_or(path);
    let roots = cgroup::roots_of_v2(&fs::read("/proc/self/mounts")?);
    let found = roots.into_iter().map(|root| root.join(relative)).find(|folder| is_cgroup(folder));
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such folder of a cgroup2 file system"))
}

fn cgroup_processes(folder: &Path) -> io::Result<Vec<NonZeroU32>> {
    let text = fs::read_to_string(folder.join("cgroup.procs"))?;
    let mut pids: Vec<NonZeroU32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A group that is removed meanwhile has no processes any more.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(cgroup_processes(&entry.path()).unwrap_or_default());
        }
    }
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memtrace_itself_is_never_selected() {
        let own = std::process::id();
        let all = Selection::All.processes().unwrap();
        assert!(!all.is_empty() && all.iter().all(|pid| pid.get() != own));
    }

    #[test]
    fn a_cgroup_that_is_not_there_is_an_error_that_names_it() {
        let error = Selection::Cgroup("/no/such/group".into()).processes().unwrap_err();
        assert!(error.to_string().contains("/no/such/group"), "{error}");
    }

    #[test]
    fn a_group_of_cgroup_v1_is_none() {
        let folder = std::env::temp_dir().join(format!("memtrace-cgroup1-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("cgroup.procs"), "1\n").unwrap();
        let error = Selection::Cgroup(folder.clone()).open_cgroup().unwrap_err().to_string();
        fs::remove_dir_all(&folder).unwrap();
        assert!(error.contains("no such folder of a cgroup2 file system"), "{error}");
    }

    #[test]
    fn only_what_can_begin_later_needs_probes_everywhere() {
        let pids = Selection::Pids(vec![NonZeroU32::MIN]);
        assert_eq!(pids.scope(false), Scope::Targets);
        assert_eq!(pids.scope(true), Scope::EveryProcess);
        assert_eq!(Selection::All.scope(false), Scope::EveryProcess);
    }
}
