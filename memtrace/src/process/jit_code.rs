//! Code that a compiler has made at run time, told by the mapping that it lies in.

use std::{os::unix::ffi::OsStrExt, path::Path};

use super::maps::Mapping;

/// Whether code in a mapping of no file is such code: in memory without a name, in memory that the program has named itself
/// (`[anon:…]`, PR_SET_VMA of prctl(2)), in its heap or on a stack. Other names in brackets are the kernel's, for code of its own.
#[must_use]
pub fn is_in_memory(mapping: &Mapping) -> bool {
    let name = mapping.path.as_os_str().as_bytes();
    let is_own =
        name.is_empty() || name == b"[heap]" || [&b"[anon"[..], b"[stack"].iter().any(|own| name.starts_with(own));
    mapping.file.is_none() && is_own
}

/// Whether the name of an ELF file says that it holds such code: those that `perf inject --jit` writes, a function each.
#[must_use]
pub fn is_named_so(path: &Path) -> bool {
    let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    name.starts_with(b"jitted-") && name.ends_with(b".so")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::maps::parse;

    fn is_jit(line: &str) -> bool {
        is_in_memory(&parse(line.as_bytes()).unwrap()[0])
    }

    #[test]
    fn code_in_memory_of_the_programs_own_is_made_at_run_time() {
        for name in ["", " [heap]", " [stack]", " [anon:v8]", " [anon_shmem:clr]"] {
            assert!(is_jit(&format!("7f0000000000-7f0000010000 rwxp 00000000 00:00 0 {name}")), "{name}");
        }
        for name in ["[vdso]", "[vsyscall]", "[uprobes]"] {
            assert!(!is_jit(&format!("7f0000000000-7f0000010000 r-xp 00000000 00:00 0 {name}")), "{name}");
        }
        assert!(!is_jit("7f0000000000-7f0000010000 r-xp 00000000 00:01 7 /memfd:doublemapper (deleted)"));
    }

    #[test]
    fn files_of_single_compiled_functions_are_told_by_their_names() {
        assert!(is_named_so(Path::new("/tmp/.debug/jit/java-jit-1/jitted-123-42.so")));
        assert!(!is_named_so(Path::new("/usr/lib/libjit.so")) && !is_named_so(Path::new("/")));
    }
}
