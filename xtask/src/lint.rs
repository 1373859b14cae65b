//! `cargo xtask lint`: format and lints, which must be clean.

use anyhow::Result;

use crate::{
    build,
    shell::{Progress, cargo, run, say},
};

/// Checks the format and runs clippy, on the kernel side as well.
pub(crate) fn lint() -> Result<()> {
    let object = build::bpf_object()?;
    say("checking format and lints");
    let _progress = Progress::of("checking lints");
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo()
        .args(["clippy", "--quiet", "--workspace", "--exclude", "memtrace-ebpf", "--all-targets", "--"])
        .args(["--deny", "warnings"])
        .env("MEMTRACE_BPF_OBJECT", object))
}
