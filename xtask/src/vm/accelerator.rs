//! By which means the machine runs: this machine's own CPUs where KVM works, an emulation of them elsewhere.

use std::{
    fs,
    io::Write,
    process::{Child, Command, Stdio},
};

/// The divisor of the long tests' operations under emulation, which runs a probe some twenty times slower.
const EMULATED_SCALE: u32 = 25;

/// How the machine's instructions run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// By the CPUs themselves.
    Kvm,
    /// One by one, by qemu.
    Emulation,
}

impl Accelerator {
    /// The quicker one that works. /dev/kvm may be there, and refuse: so a machine without anything is begun and ended. It may also be
    /// that of a virtual machine whose CPUs cannot run another: there kernels begin, and hang.
    pub(super) fn of_this_machine() -> Self {
        if !has_virtualisation(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()) {
            return Self::Emulation;
        }
        let tried = Command::new("timeout")
            .args(["10", "qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-nodefaults", "-display", "none"])
            // Stopped before the first instruction, until it is asked to end.
            .args(["-S", "-monitor", "none", "-qmp", "stdio", "-no-shutdown"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let works = tried.is_ok_and(Self::quits);
        if works { Self::Kvm } else { Self::Emulation }
    }

    /// Whether qemu lives to be asked to end.
    fn quits(mut qemu: Child) -> bool {
        let asked = qemu
            .stdin
            .take()
            .map(|mut input| input.write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n"));
        let ended = qemu.wait();
        asked.is_some_and(|asked| asked.is_ok()) && ended.is_ok_and(|status| status.success())
    }

    /// qemu's arguments.
    pub(super) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Emulation => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }

    /// The divisor of the long tests' operations; nothing where all of them run.
    pub(super) fn scale(self) -> Option<u32> {
        (self == Self::Emulation).then_some(EMULATED_SCALE)
    }

    /// Its name, in a sentence.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Emulation => "emulation",
        }
    }
}

/// Whether CPUs have VT-x or AMD-V, by /proc/cpuinfo.
fn has_virtualisation(cpuinfo: &str) -> bool {
    let mut flags = cpuinfo.lines().filter(|line| line.starts_with("flags")).flat_map(str::split_whitespace);
    flags.any(|flag| matches!(flag, "vmx" | "svm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtualisation_is_a_flag_of_its_own() {
        assert!(has_virtualisation("processor\t: 0\nflags\t\t: fpu svm sse\n"));
        assert!(has_virtualisation("flags\t\t: fpu vmx\n"));
        assert!(!has_virtualisation("flags\t\t: fpu svm_lock\nvmx flags\t: vnmi\nbugs\t\t: svm\n"));
        assert!(!has_virtualisation(""));
    }
}
