//! `cargo xtask lint`: wording, format and lints, which must be clean.

use anyhow::Result;

use crate::{
    build, deny,
    shell::{Progress, cargo, root, run, say, which},
    wording,
};

/// Checks the wording and the format, and runs clippy, on the kernel side as well.
pub(crate) fn lint() -> Result<()> {
    wording::check(root())?;
    let object = build::bpf_object()?;
    say("checking format and lints");
    let _progress = Progress::of("checking lints");
    run(cargo().args(["fmt", "--all", "--check"]))?;
    let mut clippy = cargo();
    clippy.args(["clippy", "--quiet", "--workspace", "--exclude", "memtrace-ebpf", "--all-targets"]);
    if which("c++").is_some() {
        clippy.args(["--features", "memtrace-fuzz/libfuzzer"]);
    } else {
        say("not linted: fuzz/src/main.rs, since there is no C++ compiler for libFuzzer");
    }
    run(clippy.args(["--", "--deny", "warnings"]).env("MEMTRACE_BPF_OBJECT", object))?;
    build::lint_bpf()?;
    deny::check()
}
