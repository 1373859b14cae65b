//! A target that is about to copy its code, as some programs do to have it in huge pages: with the copy it would run into
//! memtrace's breakpoints, of which the kernel knows nothing there, and end by SIGTRAP.

use super::attached::AttachedTarget;
use crate::bpf::{Bpf, point::Scope};

/// Takes the probes out of a target that waits, before it copies its code. Those that are in every process stay: then it can
/// only be said what is going to happen.
pub(super) fn let_go(followed: &AttachedTarget, scope: Scope, bpf: &mut Bpf) {
    let target = &followed.target;
    let (comm, pid) = (&target.comm, target.pid);
    let begins =
        format!("{comm} (pid {pid}) maps as much memory as hooked code takes, as programs do that copy their code");
    if scope == Scope::EveryProcess {
        log::warn!(
            "{begins}: if it does, it will end by SIGTRAP, because breakpoints are copied as well\n\
             hint: trace it with --pid once it runs, or without --follow"
        );
        return;
    }
    bpf.take_probes_out(target.pid, target.slot);
    log::warn!(
        "{begins}: breakpoints would be copied as well and end it, so its probes are out, and what it allocates from now on is not \
         seen\nhint: switch that off in the program (it is done to have code in huge pages), or use --tier growth"
    );
}
