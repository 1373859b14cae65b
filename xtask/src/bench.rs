//! `cargo xtask bench`: what tracing costs, as ratios within one run.
//!
//! Each round measures every column once, so that a machine whose speed drifts drifts under all of them.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    build, setup,
    shell::{root, run, say, target},
};

/// What the target is traced with while it is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    Untraced,
    Floor,
    Exact,
    ExactByFramePointers,
    /// As `Exact`, with stacks of 20 frames.
    ExactAtTwenty,
    /// As `Exact`, this much deeper in calls.
    ExactDeep,
    Sampled,
    Bpftrace,
}

const COLUMNS: [Column; 8] = [
    Column::Untraced,
    Column::Floor,
    Column::Sampled,
    Column::Exact,
    Column::ExactByFramePointers,
    Column::ExactAtTwenty,
    Column::ExactDeep,
    Column::Bpftrace,
];

/// Frames that the program's stacks have without more calls.
const SHALLOW: u32 = 6;

/// How many more frames the deep column's stacks have.
const DEPTH: u32 = 50;

/// The ratios that are wanted, with the most that each may be.
const RATIOS: [(&str, Column, Column, f64); 5] = [
    ("sampled / floor", Column::Sampled, Column::Floor, 0.75),
    ("exact / floor", Column::Exact, Column::Floor, 1.25),
    ("exact by frame pointers / floor", Column::ExactByFramePointers, Column::Floor, 1.25),
    ("exact, 20 frames / floor", Column::ExactAtTwenty, Column::Floor, 1.7),
    ("exact / bpftrace", Column::Exact, Column::Bpftrace, 0.35),
];

/// The nanoseconds that a frame of a repeated stack may take.
const WANTED_NS_A_FRAME: u32 = 50;

impl Column {
    fn name(self) -> &'static str {
        match self {
            Self::Untraced => "untraced",
            Self::Floor => "floor: empty probes at the same places",
            Self::Exact => "memtrace, tier exact",
            Self::ExactByFramePointers => "memtrace, tier exact, --unwind fp",
            Self::ExactAtTwenty => "memtrace, tier exact, stacks of 20 frames",
            Self::ExactDeep => "memtrace, tier exact, 50 frames deeper",
            Self::Sampled => "memtrace, tier sampled",
            Self::Bpftrace => "bpftrace script of the same job",
        }
    }

    /// Pairs in one measurement: about half a second's worth.
    fn pairs(self) -> u64 {
        match self {
            Self::Untraced => 20_000_000,
            Self::Bpftrace => 50_000,
            _ => 200_000,
        }
    }

    /// How deep in calls the pairs are made.
    fn depth(self) -> u32 {
        match self {
            Self::ExactDeep => DEPTH,
            Self::ExactAtTwenty => 20 - SHALLOW,
            _ => 0,
        }
    }
}

/// Measures every column `rounds` times, prints a table, and writes the figures to `json`.
pub(crate) fn bench(rounds: u32, json: Option<&Path>) -> Result<()> {
    setup::apt_install(&["gcc", "libc6-dev", "bpftrace"])?;
    let memtrace = build::build(true)?;
    let mut pairs = Pairs::start()?;
    let mut figures = vec![Vec::new(); COLUMNS.len()];
    for round in 1..=rounds {
        say(&format!("round {round} of {rounds}"));
        for (column, figures) in COLUMNS.into_iter().zip(&mut figures) {
            let tracer = Tracer::start(column, &memtrace, pairs.child.id())?;
            // Once to warm up: first calls make sites, stacks and breakpoints.
            pairs.measure(column.pairs() / 10, column.depth())?;
            figures.push(pairs.measure(column.pairs(), column.depth())?);
            tracer.stop()?;
        }
    }
    let results = Results { rounds, figures };
    println!("{}", results.table());
    unwind_tables(&memtrace)?;
    if let Some(path) = json {
        fs::write(path, format!("{:#}\n", results.json()))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// What it takes to compile the call frame information of a small, a middling and a large image.
fn unwind_tables(memtrace: &Path) -> Result<()> {
    let libraries = Path::new("/usr/lib/x86_64-linux-gnu");
    let llvm = fs::read_dir(libraries)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libLLVM")));
    let images = [Some(libc_path()?), Some("/usr/bin/python3.11".into()), llvm];
    // Each in a process of its own: peaks of memory are of a process.
    for image in images.into_iter().flatten().filter(|image: &PathBuf| image.exists()) {
        run(Command::new(memtrace).arg("unwind-table").arg(image))?;
    }
    Ok(())
}

/// The program that allocates and frees, and tells how long it took.
struct Pairs {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Pairs {
    fn start() -> Result<Self> {
        let program = target().join("bench-pairs");
        let source = root().join("xtask/bench/pairs.c");
        run(Command::new("cc")
            .args(["-O2", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", "-o"])
            .arg(&program)
            .arg(source))?;
        let mut child = Command::new(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let input = child.stdin.take().context("no pipe to the program")?;
        let output = BufReader::new(child.stdout.take().context("no pipe from the program")?);
        Ok(Self { child, input, output })
    }

    /// Nanoseconds a pair.
    fn measure(&mut self, pairs: u64, depth: u32) -> Result<f64> {
        writeln!(self.input, "{pairs} {depth}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("the measured program said {line:?}"))
    }
}

impl Drop for Pairs {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A tracer at work on the program; nothing for the untraced column.
struct Tracer(Option<Child>);

impl Tracer {
    fn start(column: Column, memtrace: &Path, pid: u32) -> Result<Self> {
        let pid = pid.to_string();
        let mut command = match column {
            Column::Untraced => return Ok(Self(None)),
            Column::Bpftrace => {
                let mut command = Command::new("bpftrace");
                command.args(["-p", &pid, "-e", &bpftrace_script()?]);
                command
            }
            _ => {
                let mut command = Command::new(memtrace);
                command.args(["--pid", &pid, "--format", "json"]);
                match column {
                    Column::Floor => command.arg("--empty-probes"),
                    Column::Sampled => command.args(["--tier", "sampled"]),
                    Column::ExactByFramePointers => command.args(["--unwind", "fp"]),
                    _ => &mut command,
                };
                command
            }
        };
        let is_bpftrace = column == Column::Bpftrace;
        // Each says on one stream that it has attached; on the other comes its report.
        if is_bpftrace {
            command.stdout(Stdio::piped()).stderr(Stdio::null());
        } else {
            command.stdout(Stdio::null()).stderr(Stdio::piped());
        }
        let mut child = command.stdin(Stdio::null()).spawn().context("cannot start a tracer")?;
        let said: Box<dyn Read + Send> = if is_bpftrace {
            Box::new(child.stdout.take().context("no pipe from bpftrace")?)
        } else {
            Box::new(child.stderr.take().context("no pipe from memtrace")?)
        };
        let mut said = BufReader::new(said);
        let mut line = String::new();
        said.read_line(&mut line)?;
        if !line.contains("racing") && !line.contains("Attaching") {
            bail!("the tracer did not attach: {line}");
        }
        // What else it says must be read, or it would block.
        thread::spawn(move || said.read_to_end(&mut Vec::new()));
        if is_bpftrace {
            // It says so before it does so.
            thread::sleep(Duration::from_secs(2));
        }
        Ok(Self(Some(child)))
    }

    fn stop(self) -> Result<()> {
        let Some(mut child) = self.0 else { return Ok(()) };
        run(Command::new("kill").args(["-INT", &child.id().to_string()]))?;
        child.wait().context("cannot wait for a tracer")?;
        Ok(())
    }
}

/// The same job as a script: live bytes by stack, exact.
fn bpftrace_script() -> Result<String> {
    let libc = libc_path()?;
    let libc = libc.display();
    Ok(format!(
        "uprobe:{libc}:malloc {{ @size[tid] = arg0; }}
         uretprobe:{libc}:malloc /@size[tid]/ {{
             @blocks[retval] = @size[tid]; @stacks[retval] = ustack;
             @live[ustack] = sum((int64)@size[tid]); delete(@size[tid]);
         }}
         uprobe:{libc}:free /@blocks[arg0]/ {{
             @live[@stacks[arg0]] = sum(-(int64)@blocks[arg0]);
             delete(@blocks[arg0]); delete(@stacks[arg0]);
         }}"
    ))
}

/// The libc of this machine's programs.
fn libc_path() -> Result<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let path =
        maps.lines().find_map(|line| line.find('/').map(|at| &line[at..]).filter(|path| path.contains("libc.so")));
    path.map(PathBuf::from).context("xtask itself uses no libc.so")
}

struct Results {
    rounds: u32,
    /// Nanoseconds a pair: by column, then by round.
    figures: Vec<Vec<f64>>,
}

impl Results {
    fn of(&self, column: Column) -> &[f64] {
        let index = COLUMNS.iter().position(|other| *other == column).unwrap_or(0);
        &self.figures[index]
    }

    /// The ratio of two columns, round by round.
    fn ratio(&self, over: Column, under: Column) -> Vec<f64> {
        self.of(over).iter().zip(self.of(under)).map(|(over, under)| over / under).collect()
    }

    fn table(&self) -> String {
        let mut text = format!(
            "\nns a malloc+free pair, {} rounds\n\n| column | min | median | max |\n|---|--:|--:|--:|\n",
            self.rounds
        );
        for column in COLUMNS {
            let [min, median, max] = spread(self.of(column));
            text += &format!("| {} | {min:.0} | {median:.0} | {max:.0} |\n", column.name());
        }
        text += "\n| ratio, round by round | min | median | max | wanted |\n|---|--:|--:|--:|--:|\n";
        for (name, over, under, wanted) in RATIOS {
            let [min, median, max] = spread(&self.ratio(over, under));
            text += &format!("| {name} | {min:.2} | {median:.2} | {max:.2} | <= {wanted:.2} |\n");
        }
        let [min, median, max] = spread(&self.ns_a_frame());
        text + &format!(
            "| ns a frame walked, without frame pointers | {min:.0} | {median:.0} | {max:.0} | <= {WANTED_NS_A_FRAME} |\n"
        )
    }

    /// What a frame more costs, round by round.
    fn ns_a_frame(&self) -> Vec<f64> {
        let (deep, shallow) = (self.of(Column::ExactDeep), self.of(Column::Exact));
        deep.iter().zip(shallow).map(|(deep, shallow)| (deep - shallow) / f64::from(DEPTH)).collect()
    }

    fn json(&self) -> Value {
        let columns: Vec<Value> = COLUMNS
            .into_iter()
            .map(|column| {
                let [min, median, max] = spread(self.of(column));
                json!({ "column": column.name(), "unit": "ns/pair", "min": min, "median": median, "max": max })
            })
            .collect();
        let ratios: Vec<Value> = RATIOS
            .into_iter()
            .map(|(name, over, under, wanted)| {
                let [min, median, max] = spread(&self.ratio(over, under));
                json!({ "ratio": name, "min": min, "median": median, "max": max, "wanted_at_most": wanted })
            })
            .collect();
        let [min, median, max] = spread(&self.ns_a_frame());
        let frame = json!({ "min": min, "median": median, "max": max, "wanted_at_most": WANTED_NS_A_FRAME });
        json!({ "rounds": self.rounds, "columns": columns, "ratios": ratios, "ns_a_frame": frame })
    }
}

/// Least, median and greatest.
fn spread(figures: &[f64]) -> [f64; 3] {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => [f64::NAN; 3],
        [first, .., last] => [*first, sorted[sorted.len() / 2], *last],
        [only] => [*only; 3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_do_not_depend_on_order() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), [1.0, 2.0, 3.0]);
        assert_eq!(spread(&[5.0]), [5.0; 3]);
    }

    #[test]
    fn ratios_pair_the_figures_of_a_round() {
        let figures = vec![
            vec![1.0, 1.0],
            vec![10.0, 20.0],
            vec![7.0, 7.0],
            vec![12.0, 30.0],
            vec![11.0, 11.0],
            vec![13.0, 31.0],
            vec![512.0, 530.0],
            vec![40.0, 40.0],
        ];
        let results = Results { rounds: 2, figures };
        assert_eq!(results.ratio(Column::Exact, Column::Floor), [1.2, 1.5]);
        assert_eq!(results.ns_a_frame(), [10.0, 10.0]);
    }
}
