//! Puts the BPF objects, which `cargo xtask` builds for another target, where the crate can embed them.
//!
//! Where nobody has built them yet, empty files take their place: `cargo check`, `cargo doc` and rust-analyzer need no BPF tool
//! chain. memtrace refuses to run without the objects.

use std::{env, error::Error, fs, path::Path};

/// The object that traces, by its file's name.
const TRACING: &str = "memtrace-ebpf.o";
/// The object that reads registers. It lies beside the other.
const REGISTERS: &str = "memtrace-registers.o";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=MEMTRACE_BPF_OBJECT");
    let embedded = env::var("OUT_DIR")?;
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf").join(TRACING);
    let named = env::var_os("MEMTRACE_BPF_OBJECT");
    let tracing = named.as_deref().map_or(built.as_path(), Path::new);
    for (object, name) in [(tracing.to_owned(), TRACING), (tracing.with_file_name(REGISTERS), REGISTERS)] {
        println!("cargo:rerun-if-changed={}", object.display());
        let embedded = Path::new(&embedded).join(name);
        if named.is_none() && !object.exists() {
            fs::write(embedded, [])?;
            continue;
        }
        fs::copy(&object, embedded).map_err(|error| {
            format!("cannot read the BPF object {}: {error}\nhint: `cargo xtask build` makes it", object.display())
        })?;
    }
    Ok(())
}
