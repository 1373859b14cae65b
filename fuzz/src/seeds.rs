//! Inputs to start from, made of what this machine has: the vdso, libraries, and a small library that is compiled for it.

use std::{
    fs,
    fs::File,
    io::Write,
    path::Path,
    process::{Command, ExitStatus},
    sync::OnceLock,
};

use memtrace::process::image::Image;

use crate::MAX_INPUT_BYTES;

/// Libraries that have call frame information of many kinds. One that a machine lacks is no loss.
const LIBRARIES: [&str; 5] = ["libc.so.6", "libm.so.6", "libstdc++.so.6", "libz.so.1", "libcrypto.so.3"];
/// Where they are.
const FOLDER: &str = "/usr/lib/x86_64-linux-gnu";
/// How many of the machine's own small files are taken.
const MAX_FILES: usize = 8;

/// A library with functions of allocators of several families, and of all that is watched beside them.
const ALLOCATOR: &str = r#"
typedef unsigned long size_t;
static char arena[65536]; static size_t used;
__attribute__((noinline)) static void *take(size_t n) { void *p = arena + used; used += n; return used > sizeof arena ? 0 : p; }
void *malloc(size_t n) { return n ? take(n) : 0; }
void *calloc(size_t c, size_t n) { size_t b; return __builtin_mul_overflow(c, n, &b) ? 0 : take(b); }
void *realloc(void *p, size_t n) { if (!p) return take(n); for (size_t i = 0; i < n; i++) arena[i] = ((char *)p)[i]; return p; }
int posix_memalign(void **p, size_t a, size_t n) { if (a & (a - 1)) return 22; *p = take(n + a); return *p ? 0 : 12; }
void *aligned_alloc(size_t a, size_t n) { return take(n + a); }
void free(void *p) { if (p) used -= 1; }
void *_Znwm(size_t n) { void *p = malloc(n); if (!p) __builtin_trap(); return p; }
void _ZdlPv(void *p) { free(p); }
extern void *memset(void *, int, size_t);
void *je_calloc(size_t c, size_t n) { return memset(take(c * n), 0, c * n); }
void *je_malloc(size_t n) { switch (n) { case 1: return arena; case 2: return arena + 8; case 3: return arena + 24; case 4: return 0; default: return take(n); } }
void _exit(int s) { for (;;) __asm__ volatile("syscall" :: "a"(231), "D"(s)); }
"#;

/// Whole ELF files that are no longer than an input.
#[must_use]
pub fn elf_files() -> Vec<Vec<u8>> {
    let vdso = Image::vdso().ok().and_then(|image| image.read(0, MAX_INPUT_BYTES).ok());
    let small = small_files(&Path::new(FOLDER).join("gconv")).into_iter().chain(small_files(Path::new("/usr/bin")));
    compiled().iter().cloned().chain(vdso).chain(small.take(MAX_FILES)).collect()
}

/// The smallest ELF files of a folder, in no special order.
fn small_files(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_small =
        |path: &std::path::PathBuf| path.metadata().is_ok_and(|file| file.is_file() && file.len() < 24 << 10);
    let contents = entries.map(|entry| entry.path()).filter(is_small).filter_map(|path| fs::read(path).ok());
    contents.filter(|content| content.starts_with(b"\x7fELF")).take(MAX_FILES / 2).collect()
}

/// The machine's libraries that are there.
#[must_use]
pub fn libraries() -> Vec<Image> {
    let open = |name: &str| {
        let path = Path::new(FOLDER).join(name);
        Image::parse(File::open(&path).ok()?, path).ok()
    };
    LIBRARIES.iter().filter_map(|name| open(name)).chain(Image::vdso()).collect()
}

/// The code of functions that allocate, and of some others.
#[must_use]
pub fn functions() -> Vec<Vec<u8>> {
    let names =
        ["malloc", "free", "realloc", "posix_memalign", "_Znwm", "qsort", "memcpy", "printf", "deflate", "_exit"];
    let of = |image: &Image| {
        let functions = image.functions(&names).unwrap_or_default();
        let places = functions.values().flatten().filter(|at| at.size > 0 && at.size < 16 << 10);
        let code =
            |at: &memtrace::process::image::FunctionAt| image.read(at.file_offset, usize::try_from(at.size).ok()?).ok();
        places.filter_map(code).collect::<Vec<_>>()
    };
    libraries().iter().flat_map(of).collect()
}

/// The library [`ALLOCATOR`], compiled in several ways. (A linker is there: Rust needs one.)
fn compiled() -> &'static [Vec<u8>] {
    static COMPILED: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let ways: [&[&str]; 4] = [
        &["-O2", "-Wl,--build-id"],
        &["-O0", "-fno-omit-frame-pointer", "-Wl,--hash-style=sysv"],
        &["-O2", "-g", "-fno-asynchronous-unwind-tables", "-gz"],
        &["-O2", "-s"],
    ];
    COMPILED.get_or_init(|| ways.iter().filter_map(|way| compile(way)).collect())
}

fn compile(way: &[&str]) -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().ok()?;
    let (source, library) = (folder.path().join("allocator.c"), folder.path().join("allocator.so"));
    File::create(&source).ok()?.write_all(ALLOCATOR.as_bytes()).ok()?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-nostdlib", "-fno-builtin", "-w", "-Wl,-z,noseparate-code"]).args(way).arg("-o");
    cc.arg(&library).arg(&source).status().ok().filter(ExitStatus::success)?;
    // The name of a separate debug file, where the machine's objcopy can add it.
    _ = Command::new("objcopy").arg("--add-gnu-debuglink").arg(&source).arg(&library).status();
    fs::read(library).ok()
}
