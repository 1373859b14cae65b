//! The tracers that workloads are measured under.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::shell::{run, target};

/// The tracers of a workload, in the order of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Column {
    Untraced,
    /// Empty probes at the places that memtrace probes, attached by the same means.
    Floor,
    Sampled,
    Exact,
    /// The same, with returns seen at instructions.
    AtInstructions,
    /// The tier that memtrace chooses.
    Auto,
    /// Floor, exact and auto of a process and the children that it makes.
    FollowFloor,
    FollowExact,
    FollowAuto,
    /// The stacks that make pages resident, on the whole host.
    Growth,
    ExactByFramePointers,
    Bpftrace,
    Heaptrack,
}

impl Column {
    /// Those of the pairs.
    pub(super) const OF_PAIRS: [Self; 8] = [
        Self::Untraced,
        Self::Floor,
        Self::Sampled,
        Self::Exact,
        Self::AtInstructions,
        Self::ExactByFramePointers,
        Self::Bpftrace,
        Self::Heaptrack,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Untraced => "untraced",
            Self::Floor => "floor",
            Self::Sampled => "sampled",
            Self::Exact => "exact",
            Self::AtInstructions => "exact, `--returns instruction`",
            Self::Auto => "auto",
            Self::FollowFloor => "floor",
            Self::FollowExact => "exact, `--follow`",
            Self::FollowAuto => "auto, `--follow`",
            Self::Growth => "growth, `--all`",
            Self::ExactByFramePointers => "exact, `--unwind fp`",
            Self::Bpftrace => "bpftrace",
            Self::Heaptrack => "heaptrack",
        }
    }

    /// The program that runs a command, where the tracer has to start it.
    pub(super) fn wrapper(self) -> Vec<String> {
        if self != Self::Heaptrack {
            return Vec::new();
        }
        vec!["heaptrack".into(), "-o".into(), heaptrack_output().display().to_string()]
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Floor => &["--empty-probes"],
            // A gap that memtrace chooses would make figures of one run depend on the load of another.
            Self::Sampled => &["--tier", "sampled", "--sample-bytes", "512KiB"],
            Self::AtInstructions => &["--tier", "exact", "--returns", "instruction"],
            Self::Auto => &["--tier", "auto"],
            Self::FollowFloor => &["--follow", "--empty-probes"],
            Self::FollowExact => &["--follow", "--tier", "exact"],
            Self::FollowAuto => &["--follow"],
            Self::ExactByFramePointers => &["--tier", "exact", "--unwind", "fp"],
            _ => &["--tier", "exact"],
        }
    }
}

fn heaptrack_output() -> PathBuf {
    target().join("bench/heaptrack")
}

/// A tracer at work.
pub(super) struct Tracer {
    child: Child,
    /// When the last of its report came, and how much it was.
    report: JoinHandle<(Instant, usize)>,
    /// From its start until it said that it traces.
    pub(super) attach: Duration,
}

/// The fate of a tracer.
pub(super) struct Ended {
    /// From the request to stop until the last of the report was there.
    pub(super) report: Duration,
    pub(super) report_bytes: usize,
    /// The most memory it had resident, in KiB.
    pub(super) peak_rss_kib: i64,
}

impl Tracer {
    /// Traces a process as `column` says; nothing where the column needs no tracer of ours. `library` is the process's
    /// allocator.
    pub(super) fn start(
        column: Column,
        memtrace: &Path,
        pid: u32,
        library: impl Fn() -> Result<PathBuf>,
    ) -> Result<Option<Self>> {
        match column {
            Column::Untraced | Column::Heaptrack => Ok(None),
            Column::Bpftrace => Self::bpftrace(pid, &library()?).map(Some),
            Column::Growth => Self::memtrace(memtrace, &["--all", "--tier", "growth", "--format", "json"]).map(Some),
            _ => {
                let pid = pid.to_string();
                let options = [&["--pid", &pid, "--format", "json", "--top", "100"], column.options()].concat();
                Self::memtrace(memtrace, &options).map(Some)
            }
        }
    }

    /// memtrace with these options.
    pub(super) fn memtrace(memtrace: &Path, options: &[&str]) -> Result<Self> {
        let mut command = Command::new(memtrace);
        Self::wait(command.args(options).stdout(Stdio::piped()).stderr(Stdio::piped()), |child| {
            Ok(Box::new(child.stderr.take().context("no pipe from memtrace")?))
        })
    }

    fn bpftrace(pid: u32, library: &Path) -> Result<Self> {
        let mut command = Command::new("bpftrace");
        command.args(["-p", &pid.to_string(), "-e", &bpftrace_script(library)]);
        // As many blocks as there may be: 4096 would soon be full.
        command.env("BPFTRACE_MAP_KEYS_MAX", "262144");
        let tracer = Self::wait(command.stdout(Stdio::piped()).stderr(Stdio::null()), |child| {
            Ok(Box::new(child.stdout.take().context("no pipe from bpftrace")?))
        })?;
        // It says that it attaches before it does.
        thread::sleep(Duration::from_secs(2));
        Ok(tracer)
    }

    /// Starts a tracer and waits until it says on one of its streams that it traces.
    fn wait(command: &mut Command, stream: impl FnOnce(&mut Child) -> Result<Box<dyn Read + Send>>) -> Result<Self> {
        let begun = Instant::now();
        let mut child = command.stdin(Stdio::null()).spawn().context("cannot start a tracer")?;
        let mut said = BufReader::new(stream(&mut child)?);
        let mut line = String::new();
        while !line.contains("tracing") && !line.contains("Attaching") {
            line.clear();
            if said.read_line(&mut line)? == 0 {
                bail!("the tracer ended before it traced: {:?}", child.wait());
            }
        }
        let attach = begun.elapsed();
        // Its further output must be read, or it would wait for ever.
        let report = child.stdout.take();
        thread::spawn(move || said.read_to_end(&mut Vec::new()));
        let report = thread::spawn(move || {
            let bytes = report.map_or(0, |mut pipe| drain(&mut pipe).unwrap_or(0));
            (Instant::now(), bytes)
        });
        Ok(Self { child, report, attach })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it make its report and end.
    pub(super) fn stop(self) -> Result<Ended> {
        let asked = Instant::now();
        run(Command::new("kill").args(["-INT", &self.child.id().to_string()]))?;
        let peak_rss_kib = wait_for(&self.child)?;
        let (at, report_bytes) = self.report.join().unwrap_or((asked, 0));
        Ok(Ended { report: at.saturating_duration_since(asked), report_bytes, peak_rss_kib })
    }
}

/// Reads to the end. Returns how many bytes there were.
fn drain(pipe: &mut impl Read) -> std::io::Result<usize> {
    let (mut buffer, mut total) = (vec![0; 1 << 16], 0);
    loop {
        match pipe.read(&mut buffer)? {
            0 => return Ok(total),
            count => total += count,
        }
    }
}

/// Waits for a child's end. Returns the most memory that it had resident, in KiB.
fn wait_for(child: &Child) -> Result<i64> {
    let pid = libc::pid_t::try_from(child.id())?;
    // SAFETY: all zeros is a value of this plain structure.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let mut status = 0;
    // SAFETY: both pointers lead to values that live until the call returns.
    if unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } != pid {
        bail!("cannot wait for a tracer: {}", std::io::Error::last_os_error());
    }
    Ok(usage.ru_maxrss)
}

/// The same job as a script: live bytes by stack, exact.
fn bpftrace_script(library: &Path) -> String {
    let library = library.display();
    format!(
        "uprobe:{library}:malloc {{ @size[tid] = arg0; }}
         uprobe:{library}:calloc {{ @size[tid] = arg0 * arg1; }}
         uprobe:{library}:realloc {{ @size[tid] = arg1; }}
         uretprobe:{library}:malloc, uretprobe:{library}:calloc, uretprobe:{library}:realloc /@size[tid]/ {{
             @blocks[retval] = @size[tid]; @stacks[retval] = ustack;
             @live[ustack] = sum((int64)@size[tid]); delete(@size[tid]);
         }}
         uprobe:{library}:free, uprobe:{library}:realloc /@blocks[arg0]/ {{
             @live[@stacks[arg0]] = sum(-(int64)@blocks[arg0]);
             delete(@blocks[arg0]); delete(@stacks[arg0]);
         }}
         END {{ clear(@size); clear(@blocks); clear(@stacks); clear(@live); }}"
    )
}
