//! `cargo xtask soak`: memtrace on the whole host for a long time, over programs at work. Its memory must stay what it
//! is, what it loses must be counted, and nobody else may notice.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    build, nginx, setup,
    shell::{root, run, say, target},
};

/// How often memtrace reports.
const INTERVAL: &str = "60s";

/// How much more memory it may have in the last quarter than in the second.
const MAX_GROWTH: f64 = 1.1;

/// Installs what it traces.
pub(crate) fn prepare() -> Result<()> {
    setup::apt_install(&["redis-server", "nginx-light", "python3"])
}

pub(crate) fn soak(minutes: u32) -> Result<()> {
    prepare()?;
    // A machine without cargo is given one that was built elsewhere.
    let memtrace = std::env::var_os("MEMTRACE").map_or_else(|| build::build(true), |built| Ok(built.into()))?;
    let folder = target().join("soak");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let clients = [redis(&folder)?, nginx(&folder)?, python()?, short_lived()];
    say(&format!("tracing the whole host for {minutes} minutes"));
    let mut traced = Command::new(memtrace)
        .args(["--all", "--tier", "exact", "--format", "json", "--top", "5", "--interval", INTERVAL])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run memtrace")?;
    let reports = BufReader::new(traced.stdout.take().context("no pipe from memtrace")?);
    let mut rows = Vec::new();
    println!("| minute | RSS, MiB | CPU, % | targets now | ended | lost | suspects | {} |", Client::names(&clients));
    println!("|--:|--:|--:|--:|--:|---|--:|{}", "--:|".repeat(clients.len()));
    let begun = Instant::now();
    for line in reports.lines() {
        let report: Value = serde_json::from_str(&line?)?;
        // The last report comes when memtrace has been asked to end.
        let Ok(row) = Row::of(&report, traced.id(), begun.elapsed()) else { break };
        println!("{}", row.markdown(&clients));
        rows.push(row);
        if begun.elapsed() + Duration::from_secs(30) > Duration::from_secs(u64::from(minutes) * 60) {
            run(Command::new("kill").args(["-INT", &traced.id().to_string()]))?;
        }
    }
    let status = traced.wait()?;
    ensure!(status.success(), "memtrace ended with {status}");
    clients.into_iter().try_for_each(Client::stop)?;
    verdict(&rows)
}

/// The figures of one report.
struct Row {
    minute: u64,
    rss_mib: f64,
    cpu_percent: f64,
    targets: usize,
    ended: u64,
    lost: BTreeMap<String, u64>,
    /// Sites of the programs at work that are suspected to leak, which none of them does.
    suspects: usize,
}

impl Row {
    fn of(report: &Value, pid: u32, elapsed: Duration) -> Result<Self> {
        let processes = report["processes"].as_array().context("a report has processes")?;
        let ended = processes.iter().filter(|process| process["ended"] == true).count();
        let mut lost: BTreeMap<String, u64> = BTreeMap::new();
        for health in processes.iter().map(|process| &process["health"]).chain([&report["health"]]) {
            for (name, count) in health.as_object().context("health is an object")? {
                let count = count.as_u64().unwrap_or(0);
                if count > 0 && name != "unmatched_frees" && !name.starts_with("unwind_") {
                    *lost.entry(name.clone()).or_default() += count;
                }
            }
        }
        Ok(Self {
            minute: elapsed.as_secs() / 60,
            rss_mib: rss_kib(pid)? / 1024.0,
            cpu_percent: cpu_seconds(pid)? / elapsed.as_secs_f64() * 100.0,
            targets: processes.len() - ended,
            ended: ended as u64 + report["unlisted"]["processes"].as_u64().unwrap_or(0),
            lost,
            suspects: processes.iter().filter(is_at_work).map(suspects).sum(),
        })
    }

    fn markdown(&self, clients: &[Client]) -> String {
        let lost: Vec<String> = self.lost.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let lost = if lost.is_empty() { "none".to_owned() } else { lost.join(", ") };
        let done: Vec<String> = clients.iter().map(|client| client.done.load(Ordering::Relaxed).to_string()).collect();
        let Self { minute, rss_mib, cpu_percent, targets, ended, suspects, .. } = self;
        let done = done.join(" | ");
        format!("| {minute} | {rss_mib:.0} | {cpu_percent:.1} | {targets} | {ended} | {lost} | {suspects} | {done} |")
    }
}

/// Whether a process is a server that we have started, not one of those that end at once.
fn is_at_work(process: &&Value) -> bool {
    ["redis-server", "nginx", "python3"].iter().any(|name| process["comm"] == *name) && process["ended"] == false
}

fn suspects(process: &Value) -> usize {
    let sites = process["sites"].as_array().map_or(&[][..], Vec::as_slice);
    sites.iter().filter(|site| site["verdict"] == "leak-suspect").count()
}

/// `VmRSS` of proc_pid_status(5).
fn rss_kib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("memtrace has ended")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    Ok(text.split(' ').next().context("schedstat is empty")?.parse::<f64>()? / 1e9)
}

fn verdict(rows: &[Row]) -> Result<()> {
    ensure!(rows.len() >= 4, "too short to judge: four reports at least");
    let mean = |rows: &[Row]| rows.iter().map(|row| row.rss_mib).sum::<f64>() / rows.len() as f64;
    let quarter = rows.len() / 4;
    let (before, after) = (mean(&rows[quarter..2 * quarter]), mean(&rows[rows.len() - quarter..]));
    if after > before * MAX_GROWTH {
        bail!("memtrace has grown: {before:.0} MiB in the second quarter, {after:.0} MiB in the last");
    }
    // Memory that they keep for good at the beginning may look like a leak for a minute or two.
    let suspects: usize = rows.iter().skip(2).map(|row| row.suspects).sum();
    ensure!(suspects == 0, "programs that do not leak were suspected {suspects} times");
    say(&format!(
        "memory is flat: {before:.0} MiB in the second quarter, {after:.0} MiB in the last; no client had an error"
    ));
    Ok(())
}

/// Something that is done over and over, each time with the right outcome.
struct Client {
    name: &'static str,
    done: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
    server: Option<Server>,
}

/// Ends with its client.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Client {
    fn start(
        name: &'static str,
        server: Option<Child>,
        pause: Duration,
        mut once: impl FnMut(u64) -> Result<()> + Send + 'static,
    ) -> Self {
        let (done, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, until) = (Arc::clone(&done), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                once(counter.fetch_add(1, Ordering::Relaxed))?;
                thread::sleep(pause);
            }
            Ok(())
        });
        Self { name, done, is_over, thread, server: server.map(Server) }
    }

    fn names(clients: &[Self]) -> String {
        clients.iter().map(|client| client.name).collect::<Vec<_>>().join(" | ")
    }

    fn stop(self) -> Result<()> {
        self.is_over.store(true, Ordering::Relaxed);
        let outcome = self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        drop(self.server);
        outcome.with_context(|| format!("{}, disturbed", self.name))
    }
}

fn redis(folder: &Path) -> Result<Client> {
    let port = nginx::free_port()?;
    let mut command = Command::new("/usr/bin/redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(folder);
    let server = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("cannot run redis-server")?;
    let mut stream = BufReader::new(nginx::connect(port)?);
    Ok(Client::start("redis", Some(server), Duration::from_micros(500), move |index| {
        let key = index * 7919 % 10_007;
        // In one piece, or the kernel would wait for more.
        let request = format!("SET key:{key} {}\r\n", "x".repeat((index % 300) as usize + 1));
        stream.get_mut().write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_line(&mut answer)?;
        ensure!(answer == "+OK\r\n", "it answered {answer:?}");
        Ok(())
    }))
}

fn nginx(folder: &Path) -> Result<Client> {
    let (server, port) = nginx::start(folder)?;
    Ok(Client::start("nginx", Some(server), Duration::from_millis(2), move |_| {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.ends_with("hello"), "it answered {answer:?}");
        Ok(())
    }))
}

fn python() -> Result<Client> {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(root().join("xtask/bench/work.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = command.spawn().context("cannot run python3")?;
    let mut input = server.stdin.take().context("no pipe to python3")?;
    let mut output = BufReader::new(server.stdout.take().context("no pipe from python3")?);
    Ok(Client::start("python", Some(server), Duration::from_millis(200), move |_| {
        writeln!(input, "1")?;
        let mut answer = String::new();
        output.read_line(&mut answer)?;
        ensure!(answer.starts_with("= "), "it answered {answer:?}");
        Ok(())
    }))
}

/// Programs that begin and end, five a second and more.
fn short_lived() -> Client {
    const PROGRAMS: [&[&str]; 4] =
        [&["/bin/true"], &["/bin/ls", "/etc"], &["/bin/sh", "-c", "echo $(date)"], &["/usr/bin/sort", "/etc/passwd"]];
    let mut programs = PROGRAMS.iter().cycle();
    Client::start("short-lived", None, Duration::from_millis(100), move |_| {
        let Some([program, arguments @ ..]) = programs.next() else { bail!("there are programs") };
        let status = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "{program} ended with {status}");
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rss_mib: impl Fn(usize) -> f64) -> Vec<Row> {
        let row = |minute: usize| Row {
            minute: minute as u64,
            rss_mib: rss_mib(minute),
            cpu_percent: 0.0,
            targets: 0,
            ended: 0,
            lost: BTreeMap::new(),
            suspects: 0,
        };
        (0..60).map(row).collect()
    }

    #[test]
    fn memory_that_grows_after_the_first_quarter_is_a_failure() {
        assert!(verdict(&rows(|minute| 100.0 + minute as f64)).is_err());
        assert!(verdict(&rows(|minute| if minute < 10 { 50.0 } else { 100.0 })).is_ok());
        assert!(verdict(&rows(|_| 100.0)[..3]).is_err());
    }
}
