//! Debian's redis, python and sqlite at work.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    figures::{Matrix, Section, Wanted},
    tracer::Column,
    workload::{self, Talker, Workload, mapped_library},
};
use crate::shell::{read, root};

const COLUMNS: [Column; 6] =
    [Column::Untraced, Column::Floor, Column::Sampled, Column::Exact, Column::Bpftrace, Column::Heaptrack];

pub(super) fn measure(rounds: u32, memtrace: &Path) -> Result<Vec<Section>> {
    let mut matrix = Matrix::default();
    workload::measure("redis", Redis::start, &COLUMNS, rounds, memtrace, &mut matrix)?;
    workload::measure("python", python, &COLUMNS, rounds, memtrace, &mut matrix)?;
    workload::measure("sqlite", sqlite, &COLUMNS, rounds, memtrace, &mut matrix)?;
    let throughputs =
        [(Redis::SET, Wanted::AtLeast(0.3)), (PYTHON_ROW, Wanted::Nothing), (SQLITE_ROW, Wanted::Nothing)];
    let ratio = |column: Column| {
        let matrix = &matrix;
        throughputs.into_iter().map(move |(row, wanted)| {
            let name = format!("{} / untraced: {row}", column.name());
            let wanted = if column == Column::Exact { wanted } else { Wanted::Nothing };
            matrix.ratio(&name, (row, column), (row, Column::Untraced), wanted)
        })
    };
    let figures = [Column::Sampled, Column::Exact, Column::Bpftrace, Column::Heaptrack].into_iter().flat_map(ratio);
    let figures = figures.collect();
    Ok(vec![Section {
        id: "programs",
        command: format!("cargo xtask bench programs --rounds {rounds}"),
        matrix: Some(("", matrix)),
        figures: Some(("ratio, round by round", figures)),
        more: String::new(),
    }])
}

/// redis-server, driven by redis-benchmark with sixteen clients on loopback.
pub(super) struct Redis {
    server: Child,
    port: String,
    /// The names by which redis-benchmark calls what is to be measured, and how many requests of each.
    tests: &'static [&'static str],
    requests: &'static str,
}

impl Redis {
    pub(super) const SET: &'static str = "redis SET, requests/s";
    pub(super) const SET_P99: &'static str = "redis SET, p99 in ms";

    fn start(wrapper: &[String]) -> Result<Self> {
        Self::start_with(wrapper, &["set", "get"], "40000")
    }

    /// For about half a minute of SET.
    pub(super) fn start_for_long(wrapper: &[String]) -> Result<Self> {
        Self::start_with(wrapper, &["set"], "2000000")
    }

    fn start_with(wrapper: &[String], tests: &'static [&'static str], requests: &'static str) -> Result<Self> {
        // Free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let mut command = workload::command(wrapper, "/usr/bin/redis-server");
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]);
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("cannot run redis-server")?;
        let redis = Self { server, port, tests, requests };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !redis.cli(&["ping"]).status()?.success() {
            if Instant::now() > deadline {
                bail!("redis-server does not answer");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(redis)
    }

    fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port]).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Requests a second, and the time within which 99 of 100 are answered, in milliseconds.
    fn drive(&self, test: &str) -> Result<(f64, f64)> {
        let mut command = Command::new("redis-benchmark");
        command.args([
            "-p",
            &self.port,
            "-t",
            test,
            "-n",
            self.requests,
            "-c",
            "16",
            "-d",
            "64",
            "-r",
            "10000",
            "--csv",
        ]);
        let text = read(&mut command)?;
        // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms",…
        let line = text.lines().last().context("redis-benchmark said nothing")?;
        let fields: Vec<&str> = line.split(',').map(|field| field.trim_matches('"')).collect();
        let [_, rate, _, _, _, _, p99, ..] = fields.as_slice() else { bail!("redis-benchmark said {line:?}") };
        Ok((rate.parse()?, p99.parse()?))
    }
}

impl Workload for Redis {
    fn pid(&self) -> u32 {
        self.server.id()
    }

    fn library(&self) -> Result<PathBuf> {
        // A wrapper has none, and needs none.
        mapped_library(self.pid(), "libjemalloc").or_else(|_| mapped_library(self.pid(), "libc.so"))
    }

    fn measure(&mut self) -> Result<Vec<(String, f64)>> {
        let mut figures = Vec::new();
        for test in self.tests {
            let (rate, p99) = self.drive(test)?;
            let name = test.to_uppercase();
            figures.extend([(format!("redis {name}, requests/s"), rate), (format!("redis {name}, p99 in ms"), p99)]);
        }
        Ok(figures)
    }

    fn stop(mut self) -> Result<()> {
        // It closes the connection instead of answering.
        _ = self.cli(&["shutdown", "nosave"]).status();
        self.server.wait().map(drop).context("cannot wait for redis-server")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended as it was asked to.
        _ = self.server.kill();
        _ = self.server.wait();
    }
}

/// A program that is told what to do line by line, and allocates with libc.
pub(super) struct Told {
    talker: Talker,
    row: &'static str,
    /// Works, and says how much of it was done in a second.
    work: fn(&mut Talker) -> Result<f64>,
}

const PYTHON_ROW: &str = "python, rounds of work/s";
const SQLITE_ROW: &str = "sqlite, inserts/s";
const SQLITE_INSERTS: u32 = 60_000;

/// python3 that builds, sorts, writes and parses; see xtask/bench/work.py.
fn python(wrapper: &[String]) -> Result<Told> {
    let mut command = workload::command(wrapper, "/usr/bin/python3");
    let mut talker = Talker::start(command.arg(root().join("xtask/bench/work.py")))?;
    talker.ask("1")?;
    Ok(Told { talker, row: PYTHON_ROW, work: |talker| talker.ask("30") })
}

/// The same, for some seconds.
pub(super) fn python_for_long(wrapper: &[String]) -> Result<Told> {
    Ok(Told { work: |talker| talker.ask("600"), ..python(wrapper)? })
}

/// The sqlite3 shell with a database in memory.
fn sqlite(wrapper: &[String]) -> Result<Told> {
    let mut talker = Talker::start(&mut workload::command(wrapper, "/usr/bin/sqlite3"))?;
    talker.ask("create table t(a integer primary key, b text, c text); create index i on t(b); select '= 0';")?;
    Ok(Told { talker, row: SQLITE_ROW, work: insert })
}

fn insert(sqlite: &mut Talker) -> Result<f64> {
    let insert = format!(
        "with recursive n(i) as (select 1 union all select i+1 from n where i<{SQLITE_INSERTS}) \
         insert into t(b, c) select printf('row %d', i * 7919 % 10007), hex(i) from n; select '= 0';"
    );
    let begun = Instant::now();
    sqlite.ask(&insert)?;
    Ok(f64::from(SQLITE_INSERTS) / begun.elapsed().as_secs_f64())
}

impl Workload for Told {
    fn pid(&self) -> u32 {
        self.talker.pid()
    }

    fn library(&self) -> Result<PathBuf> {
        mapped_library(self.pid(), "libc.so")
    }

    fn measure(&mut self) -> Result<Vec<(String, f64)>> {
        Ok(vec![(self.row.to_owned(), (self.work)(&mut self.talker)?)])
    }

    fn stop(self) -> Result<()> {
        self.talker.stop()
    }
}
