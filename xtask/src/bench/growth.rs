//! The cost of tier `growth` over the whole host to programs at work.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use super::{
    figures::{Matrix, Section, Wanted},
    programs::{Redis, python_for_long},
    tracer::Column,
    workload::{self, Workload},
};
use crate::{
    nginx,
    shell::{read, root, target},
};

const COLUMNS: [Column; 2] = [Column::Untraced, Column::Growth];

pub(super) fn measure(rounds: u32, memtrace: &Path) -> Result<Vec<Section>> {
    crate::setup::apt_install(&["nginx-light", "wrk"])?;
    let mut matrix = Matrix::default();
    workload::measure("redis", Redis::start_for_long, &COLUMNS, rounds, memtrace, &mut matrix)?;
    workload::measure("nginx", Nginx::start, &COLUMNS, rounds, memtrace, &mut matrix)?;
    workload::measure("python", python_for_long, &COLUMNS, rounds, memtrace, &mut matrix)?;
    workload::measure("gcc", |_: &[String]| Compiling::start(), &COLUMNS, rounds, memtrace, &mut matrix)?;
    let rows: Vec<String> = matrix.rows().map(str::to_owned).collect();
    let throughputs = rows.iter().filter(|row| row.ends_with("/s"));
    let ratio = |row: &String| {
        let name = format!("growth / untraced: {row}");
        matrix.ratio(&name, (row, Column::Growth), (row, Column::Untraced), Wanted::AtLeast(0.98))
    };
    let figures = throughputs.map(ratio).collect();
    Ok(vec![Section {
        id: "growth",
        command: format!("cargo xtask bench growth --rounds {rounds}"),
        matrix: Some(("", matrix)),
        figures: Some(("ratio, round by round", figures)),
        more: String::new(),
    }])
}

/// nginx, driven by wrk with sixteen connections on loopback.
struct Nginx {
    server: Child,
    port: u16,
}

impl Nginx {
    fn start(_: &[String]) -> Result<Self> {
        let (server, port) = nginx::start(&target().join("bench/nginx"))?;
        Ok(Self { server, port })
    }
}

impl Workload for Nginx {
    fn pid(&self) -> u32 {
        self.server.id()
    }

    fn library(&self) -> Result<PathBuf> {
        workload::mapped_library(self.pid(), "libc.so")
    }

    fn measure(&mut self) -> Result<Vec<(String, f64)>> {
        let url = format!("http://127.0.0.1:{}/", self.port);
        let text = read(Command::new("wrk").args(["-t1", "-c16", "-d5s", &url]))?;
        let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).context("wrk said no rate")?;
        Ok(vec![("nginx, requests/s".to_owned(), rate.trim().parse()?)])
    }

    fn stop(self) -> Result<()> {
        Ok(())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.server.kill();
        _ = self.server.wait();
    }
}

/// gcc, two at a time, over the C programs of the tests: processes that are short, and touch many pages.
struct Compiling {
    /// A process of no interest: the whole host is traced.
    idle: Child,
}

impl Compiling {
    /// How often each program is compiled.
    const TIMES: usize = 3;

    fn start() -> Result<Self> {
        let idle = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().context("cannot run sleep")?;
        Ok(Self { idle })
    }

    fn sources() -> Result<Vec<PathBuf>> {
        let folder = root().join("memtrace/tests/programs");
        let files = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let mut sources = files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
        sources.retain(|path| path.extension().is_some_and(|extension| extension == "c"));
        sources.sort();
        Ok(sources)
    }
}

impl Workload for Compiling {
    fn pid(&self) -> u32 {
        self.idle.id()
    }

    fn library(&self) -> Result<PathBuf> {
        workload::mapped_library(self.pid(), "libc.so")
    }

    fn measure(&mut self) -> Result<Vec<(String, f64)>> {
        let sources: Vec<PathBuf> = (0..Self::TIMES).map(|_| Self::sources()).collect::<Result<Vec<_>>>()?.concat();
        let begun = Instant::now();
        let mut xargs = Command::new("xargs");
        xargs.args(["-P", "2", "-n", "1", "gcc", "-O2", "-w", "-c", "-o", "/dev/null"]).stdin(Stdio::piped());
        let mut child = xargs.spawn().context("cannot run xargs")?;
        let lines: String = sources.iter().map(|path| format!("{}\n", path.display())).collect();
        std::io::Write::write_all(&mut child.stdin.take().context("no pipe to xargs")?, lines.as_bytes())?;
        ensure!(child.wait()?.success(), "gcc has failed");
        Ok(vec![("gcc, files/s".to_owned(), sources.len() as f64 / begun.elapsed().as_secs_f64())])
    }

    fn stop(self) -> Result<()> {
        Ok(())
    }
}

impl Drop for Compiling {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.idle.kill();
        _ = self.idle.wait();
    }
}
