//! The measured program: a process that is told what to do, line by line, and answers with figures.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{
    figures::Matrix,
    tracer::{Column, Tracer},
};
use crate::shell::say;

/// Something that allocates, in a process of its own.
pub(super) trait Workload: Sized {
    /// The process that allocates; its starter, where it was started by a wrapper.
    fn pid(&self) -> u32;
    /// The library whose functions it allocates with.
    fn library(&self) -> Result<PathBuf>;
    /// Works, and says what it took: each figure with its row in the table.
    fn measure(&mut self) -> Result<Vec<(String, f64)>>;
    /// Ends it, and whatever it has left behind.
    fn stop(self) -> Result<()>;
}

/// Measures a workload in every column, `rounds` times. `start` starts it, by way of a command that runs it where there is
/// one.
pub(super) fn measure<W: Workload>(
    what: &str,
    start: impl Fn(&[String]) -> Result<W>,
    columns: &[Column],
    rounds: u32,
    memtrace: &Path,
    matrix: &mut Matrix,
) -> Result<()> {
    for round in 1..=rounds {
        for column in columns {
            say(&format!("{what}, round {round} of {rounds}: {}", column.name()));
            let mut workload = start(&column.wrapper())?;
            let tracer = Tracer::start(*column, memtrace, workload.pid(), || workload.library())?;
            for (row, figure) in workload.measure()? {
                matrix.push(&row, *column, figure);
            }
            if let Some(tracer) = tracer {
                tracer.stop()?;
            }
            workload.stop()?;
        }
    }
    Ok(())
}

/// A command, run by the wrapper where there is one.
pub(super) fn command(wrapper: &[String], program: impl AsRef<std::ffi::OsStr>) -> Command {
    let Some((first, rest)) = wrapper.split_first() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}

/// A process that answers lines with lines.
pub(super) struct Talker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Talker {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no pipe from the program")?);
        Ok(Self { child, input, output })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The number that it answers with: `= NUMBER`. (Wrappers say other things.)
    pub(super) fn ask(&mut self, line: &str) -> Result<f64> {
        writeln!(self.input.as_ref().context("the program was told to end")?, "{line}")?;
        let mut answer = String::new();
        loop {
            answer.clear();
            if self.output.read_line(&mut answer)? == 0 {
                bail!("the program ended instead of answering {line:?}");
            }
            if let Some(number) = answer.trim().strip_prefix("= ") {
                return number.parse().with_context(|| format!("the program said {answer:?}"));
            }
        }
    }

    /// Tells it that nothing more will come, and waits for its end.
    pub(super) fn stop(mut self) -> Result<()> {
        drop(self.input.take());
        // Until nobody can write any more: a wrapper ends before what it has started.
        std::io::copy(&mut self.output, &mut std::io::sink())?;
        self.child.wait().map(drop).context("cannot wait for a program")
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// The file of a library that a process has mapped.
pub(super) fn mapped_library(pid: u32, name: &str) -> Result<PathBuf> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let path =
        paths.map(Path::new).find(|path| path.file_name().is_some_and(|file| file.to_string_lossy().contains(name)));
    path.map(Path::to_owned).with_context(|| format!("process {pid} has no {name}"))
}
