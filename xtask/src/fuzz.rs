//! `cargo xtask fuzz`: hostile input for what memtrace reads of untrusted files, grown from real libraries.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    build,
    shell::{cargo, root, run, say, target},
};

/// The longest input: enough for a few hundred functions, short enough for thousands of runs a second.
const MAX_INPUT_BYTES: usize = 16 * 1024;

/// Fuzzes each target for `seconds`. A crash, a hang of ten seconds or 2 GiB of memory is a failure.
pub(crate) fn fuzz(seconds: u32) -> Result<()> {
    let object = build::bpf_object()?;
    let cargo_fuzz = cargo_fuzz()?;
    for (name, what, corpus) in [
        ("cfi", "the compiler of call frame information", corpus()?),
        ("gate", "the readers of suppressions and baselines", folder("gate")?),
        ("answers", "the reader of what the process that reads symbols answers", folder("answers")?),
    ] {
        say(&format!("fuzzing {what} for {seconds} s"));
        let mut command = Command::new("rustup");
        command
            .args(["run", "nightly"])
            .arg(&cargo_fuzz)
            .args(["run", name])
            .arg(corpus)
            .args(["--", &format!("-max_total_time={seconds}"), &format!("-max_len={MAX_INPUT_BYTES}")])
            .args(["-timeout=10", "-rss_limit_mb=2048"])
            .current_dir(root().join("fuzz"))
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("CARGO")
            .env("MEMTRACE_BPF_OBJECT", &object);
        run(&mut command)?;
    }
    Ok(())
}

/// A folder for the inputs of a target.
fn folder(name: &str) -> Result<PathBuf> {
    let folder = target().join(format!("fuzz-corpus-{name}"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// The cargo-fuzz that is there, or one that is built now.
fn cargo_fuzz() -> Result<PathBuf> {
    let folder = target().join("cargo-fuzz");
    let program = folder.join("bin/cargo-fuzz");
    if !program.is_file() {
        say("building cargo-fuzz, once");
        run(cargo().args(["install", "--quiet", "--locked", "cargo-fuzz", "--root"]).arg(&folder))?;
    }
    Ok(program)
}

/// Pieces of the call frame information of this machine's libraries, as inputs to start from.
fn corpus() -> Result<PathBuf> {
    let folder = target().join("fuzz-corpus");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let libraries = Path::new("/usr/lib/x86_64-linux-gnu");
    for name in ["libc.so.6", "libm.so.6", "libstdc++.so.6", "libz.so.1", "libcrypto.so.3"] {
        let section = folder.join(format!("{name}.section"));
        let extracted = Command::new("objcopy")
            .args([
                "--output-target",
                "binary",
                "--only-section",
                ".eh_frame",
                "--set-section-flags",
                ".eh_frame=alloc",
            ])
            .arg(libraries.join(name))
            .arg(&section)
            .status();
        // A library that this machine lacks is no loss.
        if !extracted.is_ok_and(|status| status.success()) {
            continue;
        }
        let bytes = fs::read(&section)?;
        fs::remove_file(&section)?;
        for (index, piece) in bytes.chunks(MAX_INPUT_BYTES - 16).take(8).enumerate() {
            // The target's input: which kind of section, its address in four bytes, its contents.
            fs::write(folder.join(format!("{name}.{index}")), [&[1, 0, 0x10, 0, 0], piece].concat())?;
        }
    }
    Ok(folder)
}
