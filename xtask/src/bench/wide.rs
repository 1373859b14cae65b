//! A program of tens of thousands of functions, with debug information: generated, and compiled once.

use std::{fmt::Write, fs, path::PathBuf, process::Command, thread};

use anyhow::{Context, Result};

use crate::shell::{run, say, target};

/// Enough for 50 MB.
const FUNCTIONS: u32 = 54_000;
/// So many files are compiled, two at a time.
const FILES: u32 = 8;

const HEADER: &str = "#include <stdlib.h>
typedef void *step(unsigned long left, unsigned long way);
extern step *const steps[];
static inline __attribute__((always_inline)) void *keep_block(unsigned long way) {
    void **block = malloc(64 + way % 16);
    *block = block;
    return block;
}
";

/// Answers `STACKS` with a block from each of so many stacks of six of its functions.
const MAIN: &str = r#"
#include <stdio.h>
int main(void) {
    unsigned long stacks;
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (scanf("%lu", &stacks) == 1) {
        for (unsigned long i = 0; i < stacks; i++)
            steps[i * 6 % FUNCTIONS](4, i * 7919 + 1);
        printf("= %lu\n", stacks);
    }
}
"#;

/// Where the program is.
pub(super) fn program() -> Result<PathBuf> {
    let folder = target().join(format!("bench/wide-{FUNCTIONS}"));
    let program = folder.join("wide");
    if program.exists() {
        return Ok(program);
    }
    say("generating a large program (two minutes, once)");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(folder.join("wide.h"), HEADER)?;
    fs::write(folder.join("table.c"), table()?)?;
    let mut names = vec!["table".to_owned()];
    for file in 0..FILES {
        let name = format!("steps{file}");
        fs::write(folder.join(format!("{name}.c")), steps(file)?)?;
        names.push(name);
    }
    let compile = |names: &[String]| -> Result<()> {
        names.iter().try_for_each(|name| {
            let mut command = Command::new("cc");
            command.current_dir(&folder).args(["-g", "-O1", "-c", "-o"]);
            run(command.arg(format!("{name}.o")).arg(format!("{name}.c")))
        })
    };
    let (one, other) = names.split_at(names.len() / 2);
    thread::scope(|scope| {
        let first = scope.spawn(|| compile(one));
        compile(other)?;
        first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    // Under its name only once it is whole.
    let linked = folder.join("linked");
    let objects = names.iter().map(|name| format!("{name}.o"));
    run(Command::new("cc").current_dir(&folder).arg("-o").arg(&linked).args(objects))?;
    fs::rename(&linked, &program)?;
    Ok(program)
}

/// One file's functions: each calls another, or keeps a block.
fn steps(file: u32) -> Result<String> {
    let mut text = "#include \"wide.h\"\n".to_owned();
    for i in file * FUNCTIONS / FILES..(file + 1) * FUNCTIONS / FILES {
        writeln!(
            text,
            "struct part_{i} {{ long first_{i}; char second_{i}[{length}]; struct part_{i} *next_{i}; }};
__attribute__((noipa)) void *step_of_the_wide_program_{i}(unsigned long left, unsigned long way) {{
    struct part_{i} part_{i} = {{ .first_{i} = way }};
    __asm__ volatile(\"\" : : \"r\"(&part_{i}) : \"memory\");
    void *block_{i} = left ? steps[way % {FUNCTIONS}](left - 1, way * 31 + {add}) : keep_block(way);
    __asm__ volatile(\"\" : : : \"memory\");
    return block_{i};
}}",
            length = i % 97 + 1,
            add = i % 1000,
        )?;
    }
    Ok(text)
}

fn table() -> Result<String> {
    let mut text = format!("#include \"wide.h\"\n#define FUNCTIONS {FUNCTIONS}\n");
    for i in 0..FUNCTIONS {
        writeln!(text, "step step_of_the_wide_program_{i};")?;
    }
    text += "step *const steps[] = {\n";
    for i in 0..FUNCTIONS {
        writeln!(text, "    step_of_the_wide_program_{i},")?;
    }
    Ok(text + "};\n" + MAIN)
}
