//! The labelled corpus: programs of which it is known whether they leak, and what memtrace says of them.
//!
//! A program of `tests/programs/corpus` says in its first comment what it is: `leak: FUNCTION, …` names functions of which
//! one is on the stack of whatever leaks, `innocent` that nothing does; `half: tuned` that the judge may be changed by
//! looking at it, `half: measured` that it may not; `also: plugin` that it is compiled once more, as a library; `ends` that it
//! ends by itself within a minute, after it has freed all that it holds; `aged` that most of its memory is there before
//! memtrace comes. Of Python programs only the interpreter's own functions can be told, of which its loop is on every stack.

use std::{
    fs,
    fs::File,
    io::pipe,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{InTime, Running, Target, changed, compile::compiling, memtrace, patience, programs};

/// How many programs run at the same time: they sleep mostly, and two cores carry these with their tracers.
const AT_A_TIME: usize = 18;

/// How long a program runs before memtrace comes.
const BEFORE: Duration = Duration::from_secs(2);

/// How much later each starts than the one before. A start takes memtrace half a second of CPU time; all at once would
/// come ten seconds late.
const BETWEEN: Duration = Duration::from_millis(1200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Tuned,
    Measured,
}

impl Half {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tuned => "tuned",
            Self::Measured => "measured",
        }
    }
}

pub(crate) struct Program {
    /// Its file's name.
    pub(crate) name: String,
    source: PathBuf,
    pub(crate) half: Half,
    /// Functions that leak; none in an innocent one.
    pub(crate) leaks: Vec<String>,
    /// Whether it ends by itself.
    pub(crate) ends: bool,
    /// Whether most of its memory is there before memtrace comes.
    pub(crate) aged: bool,
    has_plugin: bool,
}

/// All programs of the corpus, by name.
pub(crate) fn corpus() -> Vec<Program> {
    let entries = fs::read_dir(programs().join("corpus")).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<Program> = entries
        .filter(|path| path.is_file() && path.file_stem().unwrap() != "pace")
        .map(|path| Program::read(&path))
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Those of the corpus whose names contain one of the parts in `MEMTRACE_CORPUS_ONLY`; all where nothing is said.
pub(crate) fn wanted() -> Vec<Program> {
    let mut corpus = corpus();
    if let Ok(only) = std::env::var("MEMTRACE_CORPUS_ONLY") {
        corpus.retain(|program| only.split(',').any(|part| program.name.contains(part)));
        assert!(!corpus.is_empty(), "no program's name contains {only:?}");
    }
    corpus
}

impl Program {
    fn read(source: &Path) -> Self {
        let text = fs::read_to_string(source).unwrap();
        let comment = text.lines().map_while(|line| line.strip_prefix("// ").or_else(|| line.strip_prefix("# ")));
        let (mut leaks, mut half, mut ends, mut aged, mut has_plugin) = (None, None, false, false, false);
        for line in comment {
            if let Some(functions) = line.strip_prefix("leak: ") {
                leaks = Some(functions.split(", ").map(str::to_owned).collect());
            }
            match line {
                "innocent" => leaks = Some(Vec::new()),
                "half: tuned" => half = Some(Half::Tuned),
                "half: measured" => half = Some(Half::Measured),
                "ends" => ends = true,
                "aged" => aged = true,
                "also: plugin" => has_plugin = true,
                _ => {}
            }
        }
        let name = source.file_name().unwrap().to_str().unwrap().to_owned();
        let leaks = leaks.unwrap_or_else(|| panic!("{name} has no label"));
        let half = half.unwrap_or_else(|| panic!("{name} is in no half"));
        Self { name, source: source.to_owned(), half, leaks, ends, aged, has_plugin }
    }

    pub(crate) fn is_leak(&self) -> bool {
        !self.leaks.is_empty()
    }

    pub(crate) fn language(&self) -> &str {
        self.source.extension().unwrap().to_str().unwrap()
    }

    pub(crate) fn label(&self) -> String {
        if self.is_leak() { format!("leak: {}", self.leaks.join(", ")) } else { "innocent".to_owned() }
    }

    /// Whether one of a site's functions is labelled as one that leaks.
    pub(crate) fn is_labelled(&self, functions: &[String]) -> bool {
        self.leaks.iter().any(|leak| functions.iter().any(|function| names(function, leak)))
    }

    /// Compiles it, unless that has been done, and returns the command that runs it.
    pub(crate) fn command(&self) -> Command {
        if self.language() == "py" {
            let mut command = Command::new("/usr/bin/python3");
            // It must not put compiled modules among the sources.
            command.arg("-B").arg(&self.source);
            return command;
        }
        let folder = tmp().join("bin");
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join(self.name.replace('.', "_"));
        self.compile(&program, &[]);
        if self.has_plugin {
            self.compile(&program.with_extension("so"), &["-shared", "-fPIC", "-DPLUGIN"]);
        }
        Command::new(program)
    }

    fn compile(&self, program: &Path, flags: &[&str]) {
        let _alone = compiling();
        let shared = ["pace.h", "pace.rs"].map(|name| self.source.with_file_name(name));
        let is_made = changed(program)
            .is_ok_and(|made| shared.iter().chain([&self.source]).all(|of| changed(of).unwrap() < made));
        if is_made {
            return;
        }
        let (compiler, ordinary): (_, &[_]) = match self.language() {
            "c" => ("cc", &["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]),
            "cc" => ("c++", &["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]),
            "rs" => ("rustc", &["--edition=2024", "-g", "-O", "-Dwarnings"]),
            other => panic!("nobody compiles .{other}"),
        };
        // A compiler that is broken off leaves nothing under the final name.
        let partial = program.with_extension("partial");
        let mut command = Command::new(compiler);
        command.args(ordinary).args(flags).arg("-o").arg(&partial).arg(&self.source);
        assert!(command.status_in_time().success(), "cannot compile {}", self.name);
        fs::rename(&partial, program).unwrap();
    }
}

/// Whether `name` stands in a function's name as a word of its own: among parameters, crates and suffixes of clones.
fn names(function: &str, name: &str) -> bool {
    let is_inside = |c: char| c.is_alphanumeric() || c == '_';
    function
        .match_indices(name)
        .any(|(at, _)| !function[..at].ends_with(is_inside) && !function[at + name.len()..].starts_with(is_inside))
}

/// Where programs and reports are.
pub(crate) fn tmp() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("corpus")
}

/// Traces all programs, each by a memtrace of its own with `arguments`, and leaves what each says in `folder`: all
/// reports in `NAME.stream.json`, one a line, and the last in `NAME.json`.
pub(crate) fn trace(programs: &[Program], arguments: &[&str], folder: &Path) {
    in_batches(programs, folder, |program, command| {
        let mut target = Target::start(command);
        thread::sleep(BEFORE);
        let mut tracer = memtrace();
        tracer.args(["--pid", &target.pid().to_string()]).args(arguments);
        finish_tracer(start_tracer(&mut tracer, folder, &program.name), folder, &program.name);
        assert_eq!(target.is_alive(), !program.ends, "{} has ended, or has not", program.name);
    });
}

/// The same for so long, but each is started by its memtrace, which so sees all of its memory.
pub(crate) fn trace_from_start(programs: &[Program], arguments: &[&str], lasts: Duration, folder: &Path) {
    in_batches(programs, folder, |program, command| {
        let (input, held) = pipe().unwrap();
        let mut tracer = memtrace();
        tracer.args(arguments).arg("--").arg(command.get_program()).args(command.get_args());
        let mut tracer = start_tracer(tracer.stdin(input), folder, &program.name);
        thread::sleep(lasts);
        assert!(tracer.is_alive(), "{} has ended", program.name);
        // It watches for the end of its input, and memtrace ends with it.
        drop(held);
        finish_tracer(tracer, folder, &program.name);
    });
}

/// Makes programs, and runs some at the same time.
fn in_batches(programs: &[Program], folder: &Path, run: impl Fn(&Program, &mut Command) + Sync) {
    fs::create_dir_all(folder).unwrap();
    let mut commands: Vec<Command> = programs.iter().map(Program::command).collect();
    // Each batch has some of every kind and language.
    let batches = programs.len().div_ceil(AT_A_TIME);
    for batch in 0..batches {
        thread::scope(|scope| {
            let here = programs.iter().zip(&mut commands).skip(batch).step_by(batches);
            let run = &run;
            for (index, (program, command)) in (0..).zip(here) {
                scope.spawn(move || {
                    thread::sleep(BETWEEN * index);
                    run(program, command);
                    let last = stream(folder, &program.name).pop().unwrap();
                    fs::write(folder.join(format!("{}.json", program.name)), format!("{last:#}\n")).unwrap();
                });
            }
        });
    }
}

/// Starts memtrace on one program. Its output goes to files, since nobody reads so many pipes at once.
fn start_tracer(command: &mut Command, folder: &Path, name: &str) -> Running {
    let file = |end: &str| Stdio::from(File::create(folder.join(format!("{name}.{end}"))).unwrap());
    Running::start(command.stdout(file("stream.json")).stderr(file("log")))
}

/// Waits until it has ended well: after two minutes and a half at most, on purpose.
fn finish_tracer(tracer: Running, folder: &Path, name: &str) {
    let status = tracer.within(patience() + Duration::from_secs(150)).wait();
    let messages = folder.join(format!("{name}.log"));
    assert!(status.success(), "{name}: {}", fs::read_to_string(messages).unwrap());
}

/// All reports on a program, in their order.
pub(crate) fn stream(folder: &Path, name: &str) -> Vec<Value> {
    let path = folder.join(format!("{name}.stream.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A site that is judged to leak.
pub(crate) struct Suspect {
    pub(crate) functions: Vec<String>,
    pub(crate) confidence: f64,
    pub(crate) reason: String,
}

/// A report's sites of the heap, with the functions on their stacks.
pub(crate) fn sites(report: &Value) -> impl Iterator<Item = (&Value, Vec<String>)> {
    super::process(report)["sites"].as_array().unwrap().iter().map(|site| {
        let frames = site["frames"].as_array().unwrap().iter();
        (site, frames.filter_map(|frame| frame["function"].as_str().map(str::to_owned)).collect())
    })
}

/// The suspects of a report, the surest first.
pub(crate) fn suspects(report: &Value) -> Vec<Suspect> {
    let mut suspects: Vec<Suspect> = sites(report)
        .filter(|(site, _)| site["verdict"] == "leak-suspect")
        .map(|(site, functions)| Suspect {
            functions,
            confidence: site["confidence"].as_f64().unwrap(),
            // A report need not give one.
            reason: site["reason"].as_str().unwrap_or_default().to_owned(),
        })
        .collect();
    suspects.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    suspects
}

/// The live bytes that matter: of the sites that are labelled, or of all of an innocent program.
pub(crate) fn live_bytes(program: &Program, report: &Value) -> u64 {
    let counts = |functions: &[String]| !program.is_leak() || program.is_labelled(functions);
    sites(report).filter(|(_, functions)| counts(functions)).map(|(site, _)| site["live_bytes"].as_u64().unwrap()).sum()
}

/// How long a report's tracing had gone on.
pub(crate) fn seconds(report: &Value) -> f64 {
    report["duration_ns"].as_f64().unwrap() / 1e9
}
