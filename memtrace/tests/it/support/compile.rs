//! The programs that tests trace, compiled once.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::InTime;

/// Held while a program is looked for and made, as tests run at the same time.
pub(crate) fn compiling() -> MutexGuard<'static, ()> {
    static COMPILING: Mutex<()> = Mutex::new(());
    // A test that failed has left nothing under a final name.
    COMPILING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compiles a program of `tests/programs`, once for each set of flags.
pub(crate) fn compile(source: &str, flags: &[&str]) -> PathBuf {
    compile_by("cc", source, flags)
}

/// The same by a compiler of one's choice.
pub(crate) fn compile_by(compiler: &str, source: &str, flags: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name: String = format!("{compiler}{source}{}", flags.concat())
        .trim_start_matches("cc")
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { '_' })
        .collect();
    let program = folder.join(name);
    let _alone = compiling();
    if is_newer_than_all_of(&programs(), &program) {
        return program;
    }
    // A compiler that is broken off leaves nothing under the final name.
    let partial = program.with_extension("partial");
    let source = programs().join(source);
    let status = Command::new(compiler)
        .args(["-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .arg(&partial)
        .arg(&source)
        .args(flags)
        .status_in_time();
    assert!(status.success(), "cannot compile {}", source.display());
    fs::rename(&partial, &program).unwrap();
    program
}

/// Whether a file is there that is newer than every file of a folder.
fn is_newer_than_all_of(folder: &Path, file: &Path) -> bool {
    let Ok(made) = changed(file) else { return false };
    fs::read_dir(folder).unwrap().all(|entry| changed(&entry.unwrap().path()).unwrap() < made)
}

/// When a file was last written.
pub(crate) fn changed(path: &Path) -> io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

/// The folder of the programs that tests trace.
pub(crate) fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs")
}

/// Flags with which frames can be walked by frame pointers.
pub(crate) const FRAME_POINTERS: [&str; 3] = ["-O2", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"];
