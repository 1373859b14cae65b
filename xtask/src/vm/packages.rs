//! Debian packages that are fetched and unpacked, but never installed.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::shell::{as_root, read, run, say};

/// The release whose newest package is taken.
const RELEASE: &str = "6.1.0";

/// A kernel that was unpacked.
pub(crate) struct Kernel {
    /// `6.1.0-56-cloud-amd64`
    release: String,
    /// The kernel that the emulator starts.
    pub(crate) image: PathBuf,
    /// The folder of its modules.
    pub(crate) modules: PathBuf,
}

impl fmt::Display for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Linux {}", self.release)
    }
}

/// Debian's kernel for virtual machines: the one that was fetched earlier, or the newest.
pub(crate) fn kernel(folder: &Path) -> Result<Kernel> {
    let package = match fetched(folder) {
        Some(package) => package,
        None => offered().or_else(|_| {
            run(as_root("apt-get").args(["update", "-qq"]))?;
            offered()
        })?,
    };
    let root = unpacked(folder, &package)?;
    let release = package.strip_prefix("linux-image-").unwrap_or(&package).to_owned();
    let image = root.join(format!("boot/vmlinuz-{release}"));
    let modules = root.join(format!("lib/modules/{release}/kernel"));
    Ok(Kernel { release, image, modules })
}

/// A shell with all that it takes to start a machine, in one static file.
pub(crate) fn busybox(folder: &Path) -> Result<PathBuf> {
    Ok(unpacked(folder, "busybox-static")?.join("bin/busybox"))
}

/// The kernel package that is unpacked already.
fn fetched(folder: &Path) -> Option<String> {
    let names = fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    newest(names)
}

/// The newest kernel package that the package lists have.
fn offered() -> Result<String> {
    let names = read(Command::new("apt-cache").args(["pkgnames", &format!("linux-image-{RELEASE}-")]))?;
    newest(names.lines().map(str::to_owned))
        .with_context(|| format!("no kernel {RELEASE} in the package lists: Debian 12 has it"))
}

/// The kernel package with the highest number.
fn newest(names: impl Iterator<Item = String>) -> Option<String> {
    let number = |name: &str| -> Option<u32> {
        name.strip_prefix(&format!("linux-image-{RELEASE}-"))?.strip_suffix("-cloud-amd64")?.parse().ok()
    };
    names.filter_map(|name| Some((number(&name)?, name))).max().map(|(_, name)| name)
}

/// Fetches a package and unpacks it, once. Returns where.
fn unpacked(folder: &Path, package: &str) -> Result<PathBuf> {
    let done = folder.join(package);
    if done.is_dir() {
        return Ok(done);
    }
    say(&format!("fetching {package}, once"));
    // A fetch that is broken off leaves nothing under the final name.
    let partial = folder.join(format!("{package}.partial"));
    _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    read(Command::new("apt-get").args(["download", "-qq", package]).current_dir(&partial))?;
    let file = fs::read_dir(&partial)?.filter_map(|entry| Some(entry.ok()?.path())).next();
    let Some(file) = file else { bail!("apt-get has fetched no {package}") };
    run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&partial))?;
    fs::remove_file(&file)?;
    fs::rename(&partial, &done).with_context(|| format!("cannot name {}", done.display()))?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_the_one_with_the_highest_number() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-57-cloud-amd64-unsigned",
            "linux-image-6.1.0-58-amd64",
            "linux-image-6.1.0-59-cloud-amd64.partial",
            "busybox-static",
        ];
        assert_eq!(newest(names.map(str::to_owned).into_iter()).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest(std::iter::empty()), None);
    }
}
