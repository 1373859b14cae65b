//! The first files that the other kernel sees: a shell, the modules that reach this machine's files, the job.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::packages::{self, Kernel};
use crate::shell::run;

/// The modules that reach and overlay this machine's files, each after those that it needs.
const MODULES: [&str; 8] = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "fs/fuse/fuse.ko",
    "fs/fuse/virtiofs.ko",
    "fs/overlayfs/overlay.ko",
];

/// Packs what starts the machine and then runs `job`, a shell script. Returns the archive.
pub(crate) fn build(folder: &Path, kernel: &Kernel, job: &str) -> Result<PathBuf> {
    let tree = folder.join("initramfs");
    _ = fs::remove_dir_all(&tree);
    for name in ["dev", "proc", "modules", "host", "memory", "root"] {
        fs::create_dir_all(tree.join(name)).with_context(|| format!("cannot make {}", tree.display()))?;
    }
    copy(&packages::busybox(folder)?, &tree.join("busybox"))?;
    for (index, module) in MODULES.iter().enumerate() {
        // Loaded in the order of their names.
        copy(&kernel.modules.join(module), &tree.join(format!("modules/{index}.ko")))?;
    }
    write(&tree.join("init"), include_str!("init.sh"))?;
    write(&tree.join("last"), include_str!("last.sh"))?;
    write(&tree.join("job"), job)?;
    pack(&tree, &folder.join("initramfs.cpio"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// Writes a script.
fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Packs a folder in the format that kernels unpack.
fn pack(tree: &Path, archive: &Path) -> Result<PathBuf> {
    let list = archive.with_extension("list");
    let list_file = |path: &Path| File::create(path).with_context(|| format!("cannot write {}", path.display()));
    run(Command::new("find").arg(".").current_dir(tree).stdout(list_file(&list)?))?;
    let names = File::open(&list).with_context(|| format!("cannot read {}", list.display()))?;
    run(Command::new("cpio")
        .args(["--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(tree)
        .stdin(Stdio::from(names))
        .stdout(list_file(archive)?))?;
    Ok(archive.to_owned())
}
