//! Puts the BPF object, which `cargo xtask` builds for another target, where the crate can embed it.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=MEMTRACE_BPF_OBJECT");
    let object = env::var("MEMTRACE_BPF_OBJECT").unwrap_or_else(|_| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        root.join("target/bpf/memtrace-ebpf.o").to_string_lossy().into_owned()
    });
    println!("cargo:rerun-if-changed={object}");
    let embedded = Path::new(&env::var("OUT_DIR")?).join("memtrace-ebpf.o");
    fs::copy(&object, embedded)
        .map_err(|error| format!("cannot read the BPF object {object}: {error}\nhint: `cargo xtask build` makes it"))?;
    Ok(())
}
