//! The needs of memtrace on this machine, checked one by one: the substance of `memtrace doctor`.

use std::{fs, path::Path};

use crate::{
    bpf,
    process::{
        arch,
        kernel_release::{release, version},
        pid_namespace, task_type,
    },
};

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is there; with what was found.
    Ok(String),
    /// It is missing, but only some features need it; with what is lost and the next step.
    Degraded(String, String),
    /// Nothing works without it; with what was found and the next step.
    Missing(String, String),
}

/// One thing that memtrace needs.
#[derive(Clone, Debug)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// Whether it is there.
    pub outcome: Outcome,
}

/// Checks everything, in the order in which it would fail.
#[must_use]
pub fn checks() -> Vec<Check> {
    let capabilities = fs::read_to_string("/proc/self/status").ok().and_then(|status| effective(&status)).unwrap_or(0);
    let release = release().unwrap_or_default();
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let mut checks = vec![
        Check { name: "BPF object", outcome: object(bpf::has_object()) },
        Check { name: "machine", outcome: machine(std::env::consts::ARCH) },
        Check { name: "kernel", outcome: kernel(&release) },
        Check { name: "proc", outcome: proc() },
        Check { name: "pid namespace", outcome: own_pid_namespace() },
        Check { name: "user namespace", outcome: user_namespace(pid_namespace::is_first_user().unwrap_or(true)) },
        Check { name: "lockdown", outcome: locked_down(&lockdown) },
    ];
    checks.extend(CAPABILITIES.iter().map(|capability| capability.check(capabilities)));
    if version(&release) < Some((6, 6)) {
        checks.push(Check { name: "perf events", outcome: perf_events(perf_event_paranoid(), capabilities) });
    }
    checks.push(Check { name: "uprobes", outcome: uprobes(Path::new("/sys/bus/event_source/devices")) });
    let is_first_user = pid_namespace::is_first_user().unwrap_or(true);
    checks.push(Check { name: "heap", outcome: heap(ptrace_scope(), has_sys_ptrace(capabilities), is_first_user) });
    checks
}

/// A capability by its number in `<linux/capability.h>`.
struct Capability {
    name: &'static str,
    bit: u32,
    purpose: &'static str,
    required: bool,
}

const fn capability(name: &'static str, bit: u32, required: bool, purpose: &'static str) -> Capability {
    Capability { name, bit, purpose, required }
}

/// `CAP_SYS_ADMIN` stands in for the first two and the last.
const SYS_ADMIN: u32 = 21;
/// Reading the memory of others takes it.
const SYS_PTRACE: u32 = 19;
const CAPABILITIES: [Capability; 5] = [
    capability("CAP_BPF", 39, true, "load BPF programs"),
    capability("CAP_PERFMON", 38, true, "attach probes"),
    capability("CAP_SYS_PTRACE", SYS_PTRACE, true, "look at the mappings of other users' processes"),
    capability("CAP_DAC_READ_SEARCH", 2, false, "read images that only their owner may read"),
    capability("CAP_CHECKPOINT_RESTORE", 40, false, "read deleted and replaced images"),
];

impl Capability {
    fn check(&self, effective: u64) -> Check {
        let stands_in = self.bit >= 38 && effective >> SYS_ADMIN & 1 == 1;
        let outcome = if effective >> self.bit & 1 == 1 || stands_in {
            Outcome::Ok(self.purpose.into())
        } else if self.required {
            Outcome::Missing(
                format!("not permitted to {}", self.purpose),
                format!("run with sudo, or grant {}", self.name),
            )
        } else {
            Outcome::Degraded(
                format!("not permitted to {}", self.purpose),
                format!("run with sudo, or grant {}", self.name),
            )
        };
        Check { name: self.name, outcome }
    }
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn object(is_there: bool) -> Outcome {
    if is_there {
        return Outcome::Ok("built in".into());
    }
    Outcome::Missing("this memtrace was built without its BPF object".into(), "`cargo xtask build` builds both".into())
}

fn machine(architecture: &str) -> Outcome {
    match architecture {
        arch::NAME => Outcome::Ok(architecture.into()),
        other => Outcome::Missing(format!("{other} is not supported yet"), format!("run it on {}", arch::NAME)),
    }
}

/// Whether only who may do everything may open perf events: Debian and Ubuntu have patched that into their kernels, as the
/// default.
#[must_use]
pub fn restricts_perf_events() -> bool {
    perf_event_paranoid() > 2
}

fn perf_event_paranoid() -> i32 {
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    level.trim().parse().unwrap_or(2)
}

/// Before Linux 6.6, probes are perf events.
fn perf_events(paranoid: i32, effective: u64) -> Outcome {
    if paranoid > 2 && effective >> SYS_ADMIN & 1 == 0 {
        return Outcome::Missing(
            format!("only CAP_SYS_ADMIN may open them here (kernel.perf_event_paranoid={paranoid})"),
            "run with sudo, or `sysctl kernel.perf_event_paranoid=2`".into(),
        );
    }
    Outcome::Ok("may be opened".into())
}

fn proc() -> Outcome {
    if Path::new("/proc/self/maps").exists() {
        return Outcome::Ok("mounted".into());
    }
    Outcome::Missing("/proc is not mounted".into(), "`mount -t proc proc /proc`".into())
}

fn own_pid_namespace() -> Outcome {
    if !pid_namespace::is_shown_by_proc().unwrap_or(true) {
        return Outcome::Missing(
            "/proc shows another pid namespace than the one that memtrace is in".into(),
            "`mount -t proc proc /proc` in a mount namespace of its own (`unshare --mount-proc`)".into(),
        );
    }
    if pid_namespace::is_first().unwrap_or(true) {
        return Outcome::Ok("the machine's first".into());
    }
    let number = pid_namespace::number("pid").unwrap_or_default();
    match task_type::pid_layout() {
        Ok(_) => Outcome::Ok(format!("pid:[{number}]: memtrace sees the processes in it, and those below")),
        Err(error) => Outcome::Missing(
            format!("pid:[{number}] is not the machine's first, and {error}"),
            "run memtrace in the machine's first (docker run --pid=host); with /sys mounted and CONFIG_DEBUG_INFO_BTF, any will do"
                .into(),
        ),
    }
}

/// The privileges that the kernel asks for must be granted by the machine's own user namespace.
fn user_namespace(is_first: bool) -> Outcome {
    if is_first {
        return Outcome::Ok("the machine's first".into());
    }
    Outcome::Missing(
        "root of a user namespace may not load BPF programs, whatever capabilities it has".into(),
        "run memtrace as the machine's own root, outside of the namespace (not rootless; without userns-remap)".into(),
    )
}

/// Cookies of perf-event probes came with Linux 5.15.
fn kernel(release: &str) -> Outcome {
    match version(release) {
        Some(version) if version >= (5, 17) => Outcome::Ok(release.into()),
        Some(version) if version >= (5, 15) => Outcome::Degraded(
            format!("Linux {release}: stacks are walked by frame pointers only"),
            "Linux 5.17 or later can unwind code that was built without them".into(),
        ),
        _ => Outcome::Missing(format!("Linux {release} is too old"), "needs Linux 5.15 or later".into()),
    }
}

fn locked_down(state: &str) -> Outcome {
    if state.contains("[confidentiality]") {
        return Outcome::Missing(
            "the kernel is locked down against reading memory".into(),
            "boot with lockdown=integrity or without".into(),
        );
    }
    Outcome::Ok(if state.contains("[integrity]") { "integrity".into() } else { "none".into() })
}

/// Only probes by perf events need the kernel's word for it; what the others need is tried (`doctor`).
fn uprobes(devices: &Path) -> Outcome {
    let path = devices.join("uprobe/type");
    if path.exists() {
        Outcome::Ok(path.display().to_string())
    } else if devices.exists() {
        Outcome::Missing(
            format!("{} does not exist", path.display()),
            "needs a kernel with CONFIG_UPROBE_EVENTS".into(),
        )
    } else {
        Outcome::Degraded(
            "/sys is not mounted: no probes by perf events".into(),
            "`mount -t sysfs sysfs /sys`, or Linux 6.6 or later, which has other means".into(),
        )
    }
}

/// `kernel.yama.ptrace_scope`; 0 where the kernel has no such security module.
fn ptrace_scope() -> u32 {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    scope.trim().parse().unwrap_or(0)
}

fn has_sys_ptrace(effective: u64) -> bool {
    effective >> SYS_PTRACE & 1 == 1
}

/// Whose memory `memtrace heap` may read. It asks the kernel as a tracer does, but for no BPF: lockdown does not forbid it.
fn heap(ptrace_scope: u32, has_sys_ptrace: bool, is_first_user: bool) -> Outcome {
    let limited = |what: &str, hint: &str| Outcome::Degraded(what.into(), hint.into());
    match (ptrace_scope, has_sys_ptrace) {
        (3.., _) => limited(
            "no process may be read, by root neither (kernel.yama.ptrace_scope=3)",
            "boot with `sysctl kernel.yama.ptrace_scope=1`: it cannot be lowered later; tracing does without",
        ),
        (_, true) if !is_first_user => limited(
            "processes of this user namespace alone may be read",
            "run memtrace outside of the namespace for those of others",
        ),
        (_, true) => Outcome::Ok("the memory of every process may be read".into()),
        (0, false) => limited(
            "processes of the same user alone may be read",
            "run with sudo, or grant CAP_SYS_PTRACE, for those of others",
        ),
        (scope, false) => Outcome::Degraded(
            format!("no process may be read (kernel.yama.ptrace_scope={scope})"),
            "run with sudo, or grant CAP_SYS_PTRACE".into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_yama_and_capabilities_allow() {
        assert!(matches!(heap(1, true, true), Outcome::Ok(_)));
        assert!(matches!(heap(3, true, true), Outcome::Degraded(found, _) if found.contains("ptrace_scope=3")));
        assert!(matches!(heap(0, true, false), Outcome::Degraded(found, _) if found.contains("user namespace")));
        assert!(matches!(heap(0, false, true), Outcome::Degraded(found, _) if found.contains("same user")));
        assert!(matches!(heap(1, false, true), Outcome::Degraded(found, _) if found.contains("ptrace_scope=1")));
    }

    #[test]
    fn a_build_without_the_bpf_object_says_how_to_make_one_with_it() {
        assert!(matches!(object(true), Outcome::Ok(_)));
        assert!(matches!(object(false), Outcome::Missing(_, hint) if hint.contains("cargo xtask build")));
    }

    #[test]
    fn kernels_are_compared_by_number() {
        assert!(matches!(kernel("6.18.44-fc"), Outcome::Ok(_)));
        assert!(matches!(kernel("5.15.0-91-generic"), Outcome::Degraded(..)));
        assert!(matches!(kernel("5.4.0"), Outcome::Missing(..)));
        assert!(matches!(kernel(""), Outcome::Missing(..)));
    }

    #[test]
    fn sys_admin_stands_in_for_the_newer_capabilities_only() {
        let admin = 1 << SYS_ADMIN;
        let missing: Vec<_> = CAPABILITIES
            .iter()
            .filter(|capability| matches!(capability.check(admin).outcome, Outcome::Missing(..)))
            .map(|capability| capability.name)
            .collect();
        assert_eq!(missing, ["CAP_SYS_PTRACE"]);
        assert!(CAPABILITIES.iter().all(|capability| matches!(capability.check(u64::MAX).outcome, Outcome::Ok(_))));
    }

    #[test]
    fn a_restricted_kernel_wants_more_than_four_privileges() {
        assert!(matches!(perf_events(3, 1 << 38), Outcome::Missing(..)));
        assert!(matches!(perf_events(3, 1 << SYS_ADMIN), Outcome::Ok(_)));
        assert!(matches!(perf_events(2, 1 << 38), Outcome::Ok(_)));
    }

    #[test]
    fn probes_may_do_without_sysfs_but_not_without_uprobes() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(uprobes(&folder.path().join("none")), Outcome::Degraded(..)));
        assert!(matches!(uprobes(folder.path()), Outcome::Missing(..)));
        fs::create_dir(folder.path().join("uprobe")).unwrap();
        fs::write(folder.path().join("uprobe/type"), "8").unwrap();
        assert!(matches!(uprobes(folder.path()), Outcome::Ok(_)));
    }

    #[test]
    fn this_kernel_tells_its_release() {
        assert_eq!(release().unwrap(), fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim());
    }

    #[test]
    fn lockdown_matters_only_where_it_forbids_reading() {
        assert!(matches!(locked_down("none integrity [confidentiality]\n"), Outcome::Missing(..)));
        assert!(matches!(locked_down("none [integrity] confidentiality\n"), Outcome::Ok(_)));
        assert!(matches!(locked_down(""), Outcome::Ok(_)));
    }
}
