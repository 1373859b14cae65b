//! Puts the BPF object, which `cargo xtask` builds for another target, where the crate can embed it.
//!
//! Where nobody has built it yet, an empty file takes its place: `cargo check`, `cargo doc` and rust-analyzer need no BPF tool
//! chain. memtrace refuses to run without the object.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=MEMTRACE_BPF_OBJECT");
    let embedded = Path::new(&env::var("OUT_DIR")?).join("memtrace-ebpf.o");
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/memtrace-ebpf.o");
    let named = env::var_os("MEMTRACE_BPF_OBJECT");
    let object = named.as_deref().map_or(built.as_path(), Path::new);
    println!("cargo:rerun-if-changed={}", object.display());
    if named.is_none() && !object.exists() {
        fs::write(embedded, [])?;
        return Ok(());
    }
    fs::copy(object, embedded).map_err(|error| {
        format!("cannot read the BPF object {}: {error}\nhint: `cargo xtask build` makes it", object.display())
    })?;
    Ok(())
}
