//! Probe placement against the code of real allocators from Debian.

use std::{fs::File, process::Command};

use memtrace::{
    capture::{
        allocators::{FAMILIES, Variant},
        placement::{self, Placement},
    },
    process::image::Image,
};

use crate::support::InTime;

/// Where the probe of a function of a library goes.
fn placed(library: &str, function: &str) -> Placement {
    let image = Image::parse(File::open(library).unwrap(), library.into()).unwrap();
    let at = image.functions(&[function]).unwrap()[function][0];
    let code = image.read(at.file_offset, usize::try_from(at.size).unwrap()).unwrap();
    let variants = FAMILIES.iter().flat_map(|family| family.variants);
    let (_, known) = variants.flat_map(Variant::functions).find(|(name, _)| name == function).unwrap();
    let roles = known.roles;
    let placement = placement::place(&code, &roles.arguments());
    assert_instruction_starts(library, image.virtual_offset(at.file_offset).unwrap(), at.size, placement.offset);
    placement
}

/// Asks an independent disassembler whether an instruction starts where the probe goes: anywhere else it
/// would corrupt the target.
fn assert_instruction_starts(library: &str, start: u64, size: u64, offset: u64) {
    let output = Command::new("objdump")
        .args(["-d", "--no-show-raw-insn"])
        .arg(format!("--start-address={start:#x}"))
        .arg(format!("--stop-address={:#x}", start + size))
        .arg(library)
        .output_in_time();
    let text = String::from_utf8(output.stdout).unwrap();
    let wanted = format!("{:x}:", start + offset);
    assert!(text.lines().any(|line| line.trim_start().starts_with(&wanted)), "no instruction at {wanted} of {library}");
}

fn assert_placed(library: &str, expected: &[(&str, u64, bool)]) {
    for (function, offset, emulated) in expected {
        let expected = Placement { offset: *offset, emulated: *emulated };
        assert_eq!(placed(library, function), expected, "{function} of {library}");
    }
}

const GLIBC: &str = "/lib/x86_64-linux-gnu/libc.so.6";
const JEMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2";
const TCMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4";
const MIMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libmimalloc.so.2.0";

#[test]
fn glibc() {
    assert_placed(
        GLIBC,
        &[
            ("malloc", 0, true),
            ("calloc", 0, true),
            ("realloc", 0, true),
            // Begins with a multiplication that overwrites an argument.
            ("reallocarray", 0, false),
            ("free", 3, true),
            ("posix_memalign", 7, true),
            ("aligned_alloc", 7, true),
            ("memalign", 7, true),
            ("valloc", 7, true),
            ("pvalloc", 7, true),
        ],
    );
}

#[test]
fn jemalloc() {
    assert_placed(
        JEMALLOC,
        &[
            ("malloc", 7, true),
            ("calloc", 0, true),
            ("realloc", 0, true),
            ("free", 0x30, true),
            ("posix_memalign", 0, true),
            ("aligned_alloc", 0, true),
            ("memalign", 0, true),
            ("valloc", 0, true),
        ],
    );
}

#[test]
fn tcmalloc() {
    assert_placed(
        TCMALLOC,
        &[
            ("malloc", 10, true),
            ("calloc", 0, true),
            ("realloc", 0, true),
            ("free", 10, true),
            ("posix_memalign", 11, true),
            ("aligned_alloc", 10, true),
            ("memalign", 10, true),
            ("valloc", 0, true),
            ("pvalloc", 0, true),
        ],
    );
}

#[test]
fn mimalloc() {
    assert_placed(
        MIMALLOC,
        &[
            // The size moves from one register to another before the first branch.
            ("malloc", 0, false),
            ("calloc", 0, false),
            ("realloc", 0, false),
            ("reallocarray", 0, true),
            ("free", 6, true),
            ("posix_memalign", 0, true),
            ("aligned_alloc", 0, true),
            ("memalign", 0, true),
            ("valloc", 0, true),
            ("pvalloc", 0, true),
        ],
    );
}
