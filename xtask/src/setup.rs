//! The tool chain for BPF and the programs that tests use: found where they are there, installed where not.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::shell::{Progress, as_root, cache, cargo, read, run, say, which};

/// The bpf-linker that is installed where none is there that fits.
const BPF_LINKER_VERSION: &str = "0.13.0";
/// The LLVM releases that it can be built with, newest first.
const LLVM_RELEASES: [u32; 3] = [23, 22, 21];

/// The tools that build the BPF object.
pub(crate) struct BpfToolchain {
    /// A compiler that is run in place of the default one.
    pub(crate) rustc: Option<PathBuf>,
    /// The rustup toolchain to use, and to build `core` with.
    pub(crate) rustup_toolchain: Option<&'static str>,
    /// The linker.
    pub(crate) linker: PathBuf,
}

/// Finds a tool chain for BPF, or installs one.
pub(crate) fn bpf_toolchain() -> Result<BpfToolchain> {
    let (rustc, rustup_toolchain) = compiler()?;
    let mut version = match (&rustc, rustup_toolchain) {
        (Some(rustc), _) => Command::new(rustc),
        (None, Some(toolchain)) => {
            let mut rustup = Command::new("rustup");
            rustup.args(["run", toolchain, "rustc"]);
            rustup
        }
        (None, None) => bail!("no compiler for BPF was found"),
    };
    let llvm = llvm_release(&read(version.arg("-vV"))?).context("cannot tell which LLVM the compiler uses")?;
    Ok(BpfToolchain { rustc, rustup_toolchain, linker: linker(llvm)? })
}

/// A compiler with `core` for BPF: one that has it prebuilt, or nightly with its source.
fn compiler() -> Result<(Option<PathBuf>, Option<&'static str>)> {
    if let Some(rustc) = rustc_with_prebuilt_core() {
        return Ok((Some(rustc), None));
    }
    if nightly_has_source() {
        return Ok((None, Some("nightly")));
    }
    if which("apt-get").is_some() {
        say("no compiler for BPF here: installing Debian's rustc-web with its BPF core library");
        if apt_install(&["rustc-web", "libstd-rust-web-dev-bpf"]).is_ok()
            && let Some(rustc) = rustc_with_prebuilt_core()
        {
            return Ok((Some(rustc), None));
        }
    }
    if which("rustup").is_some() {
        say("no compiler for BPF here: adding the source of the standard library to rustup's nightly");
        run(Command::new("rustup").args(["component", "add", "rust-src", "--toolchain", "nightly"]))?;
        return Ok((None, Some("nightly")));
    }
    bail!("no compiler for BPF: install rustup's nightly with the component rust-src")
}

/// Debian's compiler, whose BPF `core` is a package. It is not first in PATH where rustup is there too.
fn rustc_with_prebuilt_core() -> Option<PathBuf> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    let sysroot = read(Command::new(&rustc).args(["--print", "sysroot"])).ok()?;
    Path::new(&sysroot).join("lib/rustlib/bpfel-unknown-none/lib").is_dir().then_some(rustc)
}

/// The clippy that belongs to Debian's compiler.
pub(crate) fn debian_clippy() -> Result<&'static Path> {
    apt_install(&["rust-web-clippy"])?;
    Ok(Path::new("/usr/bin/cargo-clippy"))
}

/// Sees to it that a toolchain of rustup's has clippy.
pub(crate) fn rustup_clippy(toolchain: &str) -> Result<()> {
    read(Command::new("rustup").args(["component", "add", "clippy", "--toolchain", toolchain])).map(drop)
}

fn nightly_has_source() -> bool {
    read(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))
        .is_ok_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir())
}

/// `LLVM version: 22.1.8` of `rustc -vV`, as 22.
fn llvm_release(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

/// A bpf-linker whose LLVM is not older than the compiler's: it reads the compiler's bitcode.
///
/// A bpf-linker does not tell which LLVM it has, so one of our own is built, beside a note of that: once for all clones. A fitting
/// one that is there already can be named in `BPF_LINKER`.
fn linker(at_least: u32) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("BPF_LINKER") {
        return Ok(given.into());
    }
    let folder = cache().join(format!("bpf-linker-{BPF_LINKER_VERSION}"));
    let (own, note) = (folder.join("bin/bpf-linker"), folder.join("llvm-release"));
    let built_with = fs::read_to_string(&note).ok().and_then(|text| text.trim().parse::<u32>().ok());
    if own.is_file() && built_with.is_some_and(|release| release >= at_least) {
        return Ok(own);
    }
    let (release, prefix) = llvm_prefix(at_least)?;
    say(&format!("building bpf-linker {BPF_LINKER_VERSION} with LLVM {release} in {}, once", folder.display()));
    let _progress = Progress::of("building bpf-linker");
    let mut install = cargo();
    install
        // LLVM does the work, and is not built here: the linker links as fast without optimisation, and is there in a third of the
        // time.
        .args(["install", "--quiet", "--locked", "--force", "--debug"])
        .args(["bpf-linker", "--version", BPF_LINKER_VERSION])
        .args(["--no-default-features", "--features", &format!("llvm-{release}")])
        .arg("--root")
        .arg(&folder)
        // Its build script and that of llvm-sys look in different variables.
        .env("LLVM_PREFIX", &prefix)
        .env(format!("LLVM_SYS_{release}1_PREFIX"), &prefix);
    run(&mut install)?;
    fs::write(&note, release.to_string()).with_context(|| format!("cannot write {}", note.display()))?;
    Ok(own)
}

/// An LLVM to build bpf-linker with, and where it is.
fn llvm_prefix(at_least: u32) -> Result<(u32, String)> {
    let usable = || LLVM_RELEASES.into_iter().filter(|release| *release >= at_least);
    let find = || {
        usable().find_map(|release| {
            let ask = |what| read(Command::new(format!("llvm-config-{release}")).arg(what)).ok();
            // The program may be there without the library to link with, which is another package.
            let library = Path::new(&ask("--libdir")?).join("libLLVM.so");
            library.exists().then_some((release, ask("--prefix")?))
        })
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    for release in usable() {
        say(&format!("no LLVM {release} here: installing llvm-{release}-dev"));
        if apt_install(&[&format!("llvm-{release}-dev"), "libzstd-dev"]).is_ok() {
            break;
        }
    }
    find().with_context(|| {
        format!("no LLVM {at_least} or later: install llvm-{at_least}-dev, or a bpf-linker built with it")
    })
}

/// Installs Debian packages, those that are missing, and says so.
pub(crate) fn apt_install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if which("apt-get").is_none() {
        bail!("please install what Debian calls {}", missing.join(", "));
    }
    say(&format!("installing {}", missing.join(", ")));
    let _progress = Progress::of("installing packages");
    let quiet =
        |command: &mut Command| -> Result<()> { read(command.env("DEBIAN_FRONTEND", "noninteractive")).map(drop) };
    let install = || quiet(as_root("apt-get").args(["install", "-y", "--no-install-recommends"]).args(&missing));
    // Package lists may be missing or old: only then is it worth fetching them.
    install().or_else(|_| {
        quiet(as_root("apt-get").arg("update"))?;
        install()
    })
}

fn is_installed(package: &str) -> bool {
    read(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compilers_llvm_is_read_from_its_version() {
        assert_eq!(llvm_release("rustc 1.96.0\nhost: x\nLLVM version: 22.1.8"), Some(22));
        assert_eq!(llvm_release("rustc 1.96.0"), None);
    }
}
