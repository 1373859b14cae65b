//! libFuzzer on one target. The environment says on which, since libFuzzer's arguments are its own: `FUZZ_TARGET` is the name,
//! `FUZZ_SEEDS` a folder for the seeds, which is also given to libFuzzer as one of inputs to start from.
#![no_main]

use std::{env, fs, path::Path, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use memtrace_fuzz::Target;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

/// Finds the target and writes its seeds.
fn start() {
    let name = env::var("FUZZ_TARGET").expect("FUZZ_TARGET is the name of a file in fuzz/src/targets");
    let target = memtrace_fuzz::target(&name).unwrap_or_else(|| panic!("there is no target `{name}`"));
    if let Some(folder) = env::var_os("FUZZ_SEEDS") {
        for (index, seed) in (target.seeds)().iter().enumerate() {
            fs::write(Path::new(&folder).join(format!("seed-{index}")), seed).expect("the folder for seeds is there");
        }
    }
    TARGET.get_or_init(|| target);
}

fuzz_target!(init: start(), |input: &[u8]| {
    if let Some(target) = TARGET.get() {
        (target.run)(input);
    }
});
