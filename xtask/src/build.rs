//! Building: the BPF objects, then memtrace, which embeds them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    setup::{self, BpfToolchain},
    shell::{Progress, cargo, root, run, target},
};

/// The program of `memtrace-ebpf` that traces.
const TRACING: &str = "memtrace-ebpf";
/// The one that reads registers.
const REGISTERS: &str = "memtrace-registers";

/// Builds everything. Returns memtrace's path.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    let object = bpf_object()?;
    let _progress = Progress::of("building memtrace");
    let mut command = cargo();
    command.args(["build", "--quiet", "--package", "memtrace"]).env("MEMTRACE_BPF_OBJECT", object);
    if release {
        command.arg("--release");
    }
    run(&mut command)?;
    Ok(target().join(if release { "release" } else { "debug" }).join("memtrace"))
}

/// Builds the BPF objects, or leaves them as they are where nothing has changed. Returns the path of the one that traces; the other
/// lies beside it.
pub(crate) fn bpf_object() -> Result<PathBuf> {
    let toolchain = setup::bpf_toolchain()?;
    let _progress = Progress::of("building the BPF object");
    let mut command = match toolchain.rustup_toolchain {
        Some(toolchain) => rustup_cargo(toolchain),
        None => cargo(),
    };
    run(for_bpf(command.arg("build"), &toolchain))?;
    publish(&bpf_folder(), REGISTERS)?;
    publish(&bpf_folder(), TRACING)
}

/// Runs clippy on the kernel side, in the form in which it is built.
pub(crate) fn lint_bpf() -> Result<()> {
    let toolchain = setup::bpf_toolchain()?;
    match toolchain.rustup_toolchain {
        Some(name) => {
            setup::rustup_clippy(name)?;
            // Without `--deny warnings`: a nightly compiler has other warnings every day.
            run(for_bpf(rustup_cargo(name).arg("clippy"), &toolchain))
        }
        None => {
            let mut clippy = Command::new(setup::debian_clippy()?);
            clippy.arg("clippy").current_dir(root());
            run(for_bpf(&mut clippy, &toolchain).args(["--", "--deny", "warnings"]))
        }
    }
}

fn rustup_cargo(toolchain: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, "cargo"]).current_dir(root());
    command.env_remove("RUSTC").args(["-Z", "build-std=core"]);
    command
}

fn bpf_folder() -> PathBuf {
    target().join("bpf")
}

/// Completes a command of cargo's that is about the kernel side.
fn for_bpf<'a>(command: &'a mut Command, toolchain: &BpfToolchain) -> &'a mut Command {
    if let Some(rustc) = &toolchain.rustc {
        command.env("RUSTC", rustc);
    }
    // The BTF that the linker makes of debug information lets the verifier quote source lines.
    let mut flags = vec![
        format!("-Clinker={}", toolchain.linker.display()),
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        "-Clink-arg=--btf".to_owned(),
    ];
    flags.extend(path_flags());
    command
        .args(["--quiet", "--package", "memtrace-ebpf", "--target", "bpfel-unknown-none", "--profile", "bpf"])
        .arg("--target-dir")
        .arg(bpf_folder())
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env_remove("RUSTUP_TOOLCHAIN")
        // aya-ebpf and the kernel side use inline assembly, which is unstable for BPF.
        .env("RUSTC_BOOTSTRAP", "1")
}

/// Flags that keep the folders of this machine out of what is built, so that another makes the same of it.
pub(crate) fn path_flags() -> Vec<String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let folders = [(Some(root().to_owned()), "/memtrace"), (home, "/cargo")];
    let flag =
        |(folder, name): (Option<PathBuf>, &str)| Some(format!("--remap-path-prefix={}={name}", folder?.display()));
    folders.into_iter().filter_map(flag).collect()
}

/// Copies an object to where memtrace's build looks for it, if it is another one: an unchanged file must
/// not make memtrace build again.
fn publish(folder: &Path, name: &str) -> Result<PathBuf> {
    let built = folder.join("bpfel-unknown-none/bpf").join(name);
    let published = folder.join(name).with_extension("o");
    let new = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(&published).is_ok_and(|old| old == new) {
        return Ok(published);
    }
    fs::write(&published, new).with_context(|| format!("cannot write {}", published.display()))?;
    Ok(published)
}
