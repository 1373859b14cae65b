//! Children that live for milliseconds: postgres forks one for each connection, and each transaction makes a new one.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    figures::{Matrix, Section, Wanted},
    tracer::Column,
    workload::{self, Workload, mapped_library},
};
use crate::shell::{read, run, target};

const BIN: &str = "/usr/lib/postgresql/15/bin";
/// It does not run as root.
const NOBODY: u32 = 65534;
const SECONDS: &str = "8";

const COLUMNS: [Column; 4] = [Column::Untraced, Column::FollowFloor, Column::FollowExact, Column::FollowAuto];
const RATE: &str = "postgres, connections with a transaction each, /s";
const CPU: &str = "CPU time of a child, ms";

pub(super) fn measure(rounds: u32, memtrace: &Path) -> Result<Vec<Section>> {
    let mut matrix = Matrix::default();
    workload::measure("postgres", |_| Postgres::start(), &COLUMNS, rounds, memtrace, &mut matrix)?;
    let ratio = |row: &str, column: Column, wanted| {
        let name = format!("{} / untraced: {row}", column.name());
        matrix.ratio(&name, (row, column), (row, Column::Untraced), wanted)
    };
    let figures = vec![
        ratio(RATE, Column::FollowAuto, Wanted::AtLeast(0.9)),
        ratio(CPU, Column::FollowAuto, Wanted::AtMost(1.1)),
        ratio(RATE, Column::FollowExact, Wanted::Nothing),
        ratio(CPU, Column::FollowExact, Wanted::Nothing),
        ratio(CPU, Column::FollowFloor, Wanted::Nothing),
    ];
    Ok(vec![Section {
        id: "children",
        command: format!("cargo xtask bench children --rounds {rounds}"),
        matrix: Some(("", matrix)),
        figures: Some(("ratio, round by round", figures)),
        more: String::new(),
    }])
}

/// A postgres with a database of its own.
struct Postgres {
    server: Child,
    folder: PathBuf,
}

impl Postgres {
    fn start() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("memtrace-bench-postgres-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        chown(&folder, Some(NOBODY), Some(NOBODY))?;
        let data = folder.join("data");
        if !data.exists() {
            let mut made = as_nobody("initdb");
            read(made.args(["--no-sync", "--auth=trust", "--username=bench", "-D"]).arg(&data))?;
        }
        let log = fs::File::create(target().join("bench-postgres.log"))?;
        let mut command = as_nobody("postgres");
        command.arg("-D").arg(&data).arg("-k").arg(&folder).args(["-c", "listen_addresses=", "-c", "fsync=off"]);
        let server = command.stdout(Stdio::null()).stderr(log).spawn().context("cannot run postgres")?;
        let postgres = Self { server, folder };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !postgres.client("pg_isready").stdout(Stdio::null()).status()?.success() {
            if Instant::now() > deadline {
                bail!("postgres does not answer");
            }
            thread::sleep(Duration::from_millis(100));
        }
        let mut filled = postgres.client("pgbench");
        run(filled.args(["-i", "-q", "postgres"]).stdout(Stdio::null()).stderr(Stdio::null()))?;
        Ok(postgres)
    }

    fn client(&self, program: &str) -> Command {
        let mut command = as_nobody(program);
        command.arg("-h").arg(&self.folder).args(["-U", "bench"]);
        command
    }

    /// The CPU time of its children that have ended: fields 16 and 17 of proc_pid_stat(5).
    fn cpu_of_children(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.server.id()))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").context("no stat")?.1.split(' ').collect();
        let ticks: u64 =
            fields.get(13..15).context("too few fields")?.iter().flat_map(|field| field.parse::<u64>()).sum();
        Ok(Duration::from_millis(ticks * 10))
    }
}

fn as_nobody(program: &str) -> Command {
    let mut command = Command::new(Path::new(BIN).join(program));
    command.uid(NOBODY).gid(NOBODY).current_dir("/").stdin(Stdio::null());
    command
}

impl Workload for Postgres {
    fn pid(&self) -> u32 {
        self.server.id()
    }

    fn library(&self) -> Result<PathBuf> {
        mapped_library(self.pid(), "libc.so")
    }

    fn measure(&mut self) -> Result<Vec<(String, f64)>> {
        let before = self.cpu_of_children()?;
        let text = read(self.client("pgbench").args(["-C", "-S", "-n", "-T", SECONDS, "postgres"]))?;
        let number = |before: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(before))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        let rate = number("tps = ").context("pgbench told no rate")?;
        let count = number("number of transactions actually processed: ").context("pgbench told no count")?;
        let cpu = self.cpu_of_children()?.saturating_sub(before);
        Ok(vec![(RATE.to_owned(), rate), (CPU.to_owned(), cpu.as_secs_f64() * 1e3 / count)])
    }

    fn stop(mut self) -> Result<()> {
        run(Command::new("kill").args(["-INT", &self.server.id().to_string()]))?;
        self.server.wait().map(drop).context("cannot wait for postgres")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // It may have ended as it was asked to.
        _ = self.server.kill();
        _ = self.server.wait();
        _ = fs::remove_dir_all(&self.folder);
    }
}
