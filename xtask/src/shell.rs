//! Running other programs: the few forms that the tasks need.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// The workspace's folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The folder for what is built.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// The folder for what all clones of a user share (the XDG Base Directory Specification's, for this program); that for what is
/// built where there is no home.
pub(crate) fn cache() -> PathBuf {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    base.filter(|base| base.is_absolute()).map_or_else(target, |base| base.join("memtrace"))
}

/// How long a task may be silent.
const SILENCE: Duration = Duration::from_secs(15);

/// Says now and then, until it is dropped, that a task goes on: for commands that print nothing for minutes.
pub(crate) struct Progress {
    /// Dropped with this, which ends the thread.
    _goes_on: Sender<()>,
}

impl Progress {
    /// Of a task that is called this.
    pub(crate) fn of(task: &str) -> Self {
        let (goes_on, ended) = channel::<()>();
        let (task, begun) = (task.to_owned(), Instant::now());
        thread::spawn(move || {
            while ended.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout) {
                say(&format!("still {task}, for {} s", begun.elapsed().as_secs()));
            }
        });
        Self { _goes_on: goes_on }
    }
}

/// Says what is being done, on stderr.
pub(crate) fn say(what: &str) {
    eprintln!("xtask: {what}");
}

/// The `cargo` that started us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command to its end; that it fails is an error that names it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", describe(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", describe(command));
    }
    Ok(())
}

/// Runs a command and returns what it prints, without the last newline.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {}", describe(command)))?;
    if !output.status.success() {
        bail!("{} failed: {}", describe(command), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// Where a program is found in `PATH`.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// A command that runs as root: by itself where we are root, else through sudo.
pub(crate) fn as_root(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
