//! Names of functions: where a part of an image's debug information or symbols is compressed, missing or damaged, the rest of it
//! is told, and what is lost is said.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use object::{Object, ObjectSection, ObjectSymbol};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{self, InTime, Target, Tracing, compile, scratch, sites_at};

/// The names that are types, operators or prefixes to demanglers, with the sizes of their blocks.
const SHORT: [(&str, u64); 8] =
    [("f", 11), ("x", 12), ("Pc", 13), ("St", 14), ("dl", 15), ("nw", 16), ("_R", 17), ("_ZN3foo", 18)];

/// Copies of one program that differ in their symbols and debug information.
struct Copies(TempDir);

impl Copies {
    fn make() -> Self {
        let copies = Self(scratch());
        fs::copy(compile("names.c", &["-rdynamic"]), copies.path("whole")).unwrap();
        copies
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a program of the binary utilities in their folder.
    fn with(&self, program: &str, arguments: &[&str]) {
        let output = Command::new(program).args(arguments).current_dir(self.0.path()).output_in_time();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// As Fedora's packages are: exported functions, and the others in a compressed section.
    fn with_compressed_symbols(&self) -> PathBuf {
        let whole = fs::read(self.path("whole")).unwrap();
        let elf = object::File::parse(&*whole).unwrap();
        let exported: Vec<&str> = elf.dynamic_symbols().filter_map(|symbol| symbol.name().ok()).collect();
        let names = elf.symbols().filter(ObjectSymbol::is_definition).filter_map(|symbol| symbol.name().ok());
        let others: Vec<&str> = names.filter(|name| !name.is_empty() && !exported.contains(name)).collect();
        fs::write(self.path("others"), others.join("\n")).unwrap();
        self.with("objcopy", &["--only-keep-debug", "whole", "debug"]);
        self.with("objcopy", &["-S", "--keep-symbols=others", "debug", "mini"]);
        self.with("xz", &["--keep", "mini"]);
        self.with("strip", &["--strip-all", "-o", "compressed", "whole"]);
        self.with("objcopy", &["--add-section", ".gnu_debugdata=mini.xz", "compressed"]);
        self.path("compressed")
    }

    fn with_damaged_compressed_symbols(&self) -> PathBuf {
        fs::write(self.path("junk"), [0xa5; 300]).unwrap();
        self.with("strip", &["--strip-all", "-o", "damaged_symbols", "whole"]);
        self.with("objcopy", &["--add-section", ".gnu_debugdata=junk", "damaged_symbols"]);
        self.path("damaged_symbols")
    }

    fn with_compressed_lines(&self) -> PathBuf {
        self.with("objcopy", &["--compress-debug-sections=zstd", "whole", "compressed_lines"]);
        self.path("compressed_lines")
    }

    fn with_damaged_lines(&self) -> PathBuf {
        let mut bytes = fs::read(self.path("whole")).unwrap();
        let ranges: Vec<(u64, u64)> = {
            let elf = object::File::parse(&*bytes).unwrap();
            let sections =
                [".debug_info", ".debug_abbrev", ".debug_line"].map(|name| elf.section_by_name(name).unwrap());
            sections.map(|section| section.file_range().unwrap()).to_vec()
        };
        for (start, length) in ranges {
            let (start, length) = (usize::try_from(start).unwrap(), usize::try_from(length).unwrap());
            bytes[start..start + length].fill(0xff);
        }
        let path = self.path("damaged_lines");
        fs::copy(self.path("whole"), &path).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// The frames of the program's own image on the stack with a function.
fn frames<'a>(process: &'a Value, function: &str) -> Vec<&'a Value> {
    let site = sites_at(process, function).into_iter().next().unwrap_or_else(|| panic!("no {function}: {process:#}"));
    let is_own = |frame: &&Value| frame["image"] == process["exe"];
    site["frames"].as_array().unwrap().iter().filter(is_own).collect()
}

fn names<'a>(frames: &[&'a Value]) -> Vec<Option<&'a str>> {
    frames.iter().map(|frame| frame["function"].as_str()).collect()
}

fn has_lines(frames: &[&Value]) -> bool {
    frames.iter().any(|frame| frame["line"].is_u64())
}

#[test]
fn all_that_can_be_read_of_an_image_is_told_and_the_rest_is_said() {
    let copies = Copies::make();
    let [compressed, damaged_symbols] = [copies.with_compressed_symbols(), copies.with_damaged_compressed_symbols()];
    let [compressed_lines, damaged_lines] = [copies.with_compressed_lines(), copies.with_damaged_lines()];
    let programs = [&compressed, &damaged_symbols, &compressed_lines, &damaged_lines];
    let mut targets = programs.map(|program| {
        let mut target = Target::start(&mut Command::new(program));
        assert_eq!(target.line(), "ready");
        target
    });
    let pids = targets.each_ref().map(|target| target.pid().to_string());
    let selected = pids.iter().flat_map(|pid| ["--pid", pid]);
    let options: Vec<&str> = ["--tier", "exact", "--format", "json"].into_iter().chain(selected).collect();
    let tracing = Tracing::start(&options);
    for target in &mut targets {
        for _ in 0..3 {
            target.say("go");
            assert_eq!(target.line(), "done");
        }
    }
    tracing.signal(support::Signal::INT);
    let (status, output, messages) = tracing.finish();
    assert_eq!(status, 0, "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    let of = |program: &Path| {
        let mut processes = report["processes"].as_array().unwrap().iter();
        processes.find(|process| process["exe"] == program.to_str().unwrap()).unwrap()
    };

    let chain = [Some("exported"), Some("of_this_file"), Some("main"), Some("_start")];
    let of_compressed = frames(of(&compressed), "exported");
    assert_eq!(names(&of_compressed), chain);
    let of_damaged = frames(of(&damaged_symbols), "exported");
    assert_eq!(names(&of_damaged), [chain[0], None, chain[2], chain[3]]);
    let (with_lines, without) = (frames(of(&compressed_lines), "exported"), frames(of(&damaged_lines), "exported"));
    assert_eq!((names(&with_lines), has_lines(&with_lines)), (chain.to_vec(), true));
    assert_eq!((names(&without), has_lines(&without)), (chain.to_vec(), false));

    for program in programs {
        for (name, bytes) in SHORT {
            assert_eq!(support::sum_at(of(program), name, "alloc_bytes"), 3 * bytes, "{name} of {}", program.display());
        }
    }
    let said = |program: &Path, part: &str| {
        messages.matches(&format!("{part} of {} cannot be read", program.display())).count()
    };
    assert_eq!(said(&damaged_symbols, ".gnu_debugdata"), 1, "{messages}");
    assert_eq!(said(&damaged_lines, "debug information"), 1, "{messages}");
    for whole in [&compressed, &compressed_lines] {
        assert!(!messages.contains(&format!("{} cannot be read", whole.display())), "{messages}");
    }
}
