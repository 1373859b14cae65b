//! `cargo xtask dist`: what is handed out. One static binary, in a tarball beside its checksum.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    build, demo,
    shell::{as_root, cargo, read, root, run, say, target},
};

/// The only target that memtrace knows the registers of.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The most that the binary may have.
const MAX_BYTES: u64 = 15_000_000;

/// The files that go into the tarball beside the binary.
const DOCUMENTS: [&str; 2] = ["README.md", "CHANGELOG.md"];

/// Makes the tarball. With `verify`, once more from a copy of the last commit elsewhere, which must come out the same.
pub(crate) fn dist(verify: bool) -> Result<()> {
    let binary = binary()?;
    let size = fs::metadata(&binary)?.len();
    if size > MAX_BYTES {
        bail!("{} has {size} bytes, more than {MAX_BYTES}", binary.display());
    }
    let tarball = tarball(&binary)?;
    let name = tarball.file_name().context("the tarball has a name")?;
    let sums = read(Command::new("sha256sum").arg(name).current_dir(folder()))?;
    fs::write(folder().join("SHA256SUMS"), format!("{sums}\n"))?;
    say(&format!("{} ({:.1} MB static binary)", tarball.display(), size as f64 / 1e6));
    println!("{sums}");
    if verify {
        verify_in_an_empty_root(&binary)?;
        verify_against_another_build(&sums)?;
    }
    Ok(())
}

fn folder() -> PathBuf {
    target().join("artefacts")
}

/// Builds memtrace without anything that it would need to find on the machine it runs on.
fn binary() -> Result<PathBuf> {
    let object = build::bpf_object()?;
    let flags = [vec!["-Ctarget-feature=+crt-static".to_owned()], build::path_flags()].concat();
    let mut command = cargo();
    command
        .args(["build", "--quiet", "--locked", "--package", "memtrace", "--profile", "dist", "--target", TARGET])
        .env("MEMTRACE_BPF_OBJECT", object)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    run(&mut command)?;
    Ok(target().join(TARGET).join("dist/memtrace"))
}

/// The same bytes for the same files, whenever and by whomever it is made.
fn tarball(binary: &Path) -> Result<PathBuf> {
    let name = format!("memtrace-{}-x86_64-linux", env!("CARGO_PKG_VERSION"));
    let content = folder().join(&name);
    // Files that an earlier version has left there.
    _ = fs::remove_dir_all(&content);
    fs::create_dir_all(&content).with_context(|| format!("cannot make {}", content.display()))?;
    fs::copy(binary, content.join("memtrace"))?;
    for document in DOCUMENTS {
        fs::copy(root().join(document), content.join(document))?;
    }
    let tarball = folder().join(format!("{name}.tar.gz"));
    let epoch = read(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root()))?;
    let mut tar = Command::new("tar")
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX,go=rX", "--format=ustar"])
        .arg(format!("--mtime=@{epoch}"))
        .arg("-C")
        .arg(folder())
        .args(["-c", &name])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run tar")?;
    let packed = fs::File::create(&tarball).with_context(|| format!("cannot make {}", tarball.display()))?;
    let archive = tar.stdout.take().context("no pipe from tar")?;
    run(Command::new("gzip").args(["-n", "-9"]).stdin(archive).stdout(packed))?;
    if !tar.wait()?.success() {
        bail!("tar failed");
    }
    Ok(tarball)
}

/// Traces a process from a root folder in which there is nothing but the binary and /proc.
fn verify_in_an_empty_root(binary: &Path) -> Result<()> {
    let empty = folder().join("root");
    fs::create_dir_all(empty.join("proc"))?;
    fs::copy(binary, empty.join("memtrace"))?;
    let program = demo::start()?;
    // A mount that ends with the shell, in a name space of its own.
    let script = "mount -t proc proc \"$1/proc\" && exec chroot \"$1\" /memtrace --pid \"$2\" --duration 3s";
    let mut command = as_root("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(&empty).arg(program.pid().to_string());
    let output = read(&mut command)?;
    println!("{output}");
    if !output.contains("describe_error") {
        bail!("memtrace in an empty root folder did not find the demo's leak");
    }
    Ok(())
}

/// Builds the last commit in another folder, with nothing that was built before.
fn verify_against_another_build(sums: &str) -> Result<()> {
    if !read(Command::new("git").args(["status", "--porcelain"]).current_dir(root()))?.is_empty() {
        bail!("there are changes that no commit has, so that another build would not have them either");
    }
    let elsewhere = folder().join("another");
    _ = fs::remove_dir_all(&elsewhere);
    say("once more, from a fresh clone in another folder");
    run(Command::new("git").args(["clone", "--quiet"]).arg(root()).arg(&elsewhere))?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Where this one was built is nothing to it.
    command.current_dir(&elsewhere).env_remove("MEMTRACE_BPF_OBJECT").env("CARGO_TARGET_DIR", elsewhere.join("target"));
    run(command.args(["run", "--quiet", "--package", "xtask", "--", "dist"]))?;
    let others = fs::read_to_string(elsewhere.join("target/artefacts/SHA256SUMS"))?;
    if others.trim() != sums {
        bail!("another build came out differently: {}", others.trim());
    }
    say("another build came out the same");
    Ok(())
}
