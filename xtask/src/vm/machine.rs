//! The emulated machine: started, listened to, and judged by the status that it says at its end.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::accelerator::Accelerator;
use crate::shell::say;

/// Serves files to the machine; in Debian 12 a part of the emulator's packages.
const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";

/// The machine's memory, taken only as it is used.
const MEMORY: &str = "6G";

/// The status of `timeout` where the time was up.
const TIMED_OUT: i32 = 124;

/// How long the server of files may take to start.
const SERVER_PATIENCE: Duration = Duration::from_secs(10);

/// Preempting wherever it can; what goes wrong in it ends it. Its watchdogs would bark at an emulator's pace.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 preempt=full oops=panic panic=-1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1";

/// The line that the first process writes before the status.
const VERDICT: &str = "memtrace-vm: status ";

/// The kernel's last lines that are shown where it has come to no verdict.
const LAST_LINES: usize = 40;

/// Starts the machine, shows what its job writes, and returns when that has succeeded.
pub(crate) fn run(accelerator: Accelerator, folder: &Path, image: &Path, initramfs: &Path, limit_s: u32) -> Result<()> {
    let begun = Instant::now();
    let log = folder.join("kernel.log");
    let socket = folder.join("files.sock");
    let _server = Server::start(&socket)?;
    let mut machine = qemu(accelerator, image, initramfs, &socket, &log, limit_s)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run qemu-system-x86_64")?;
    let output = machine.stdout.take().context("no pipe from the machine")?;
    let verdict = listen(BufReader::new(output))?;
    let ended = machine.wait().context("cannot wait for the machine")?;
    let kernel_said = fs::read_to_string(&log).unwrap_or_default();
    say(&format!("the machine ran for {} s; its kernel's lines are in {}", begun.elapsed().as_secs(), log.display()));
    match verdict {
        None if ended.code() == Some(TIMED_OUT) => bail!("it hangs: no end after {limit_s} s"),
        None => bail!("the machine ended ({ended}) without a verdict; its last lines:\n{}", last_lines(&kernel_said)),
        Some(status) if status != "0" => bail!("it failed on this kernel: status {status}"),
        Some(_) => no_complaints(&kernel_said),
    }
}

/// qemu, which ends by itself at the limit.
fn qemu(accelerator: Accelerator, image: &Path, initramfs: &Path, socket: &Path, log: &Path, limit_s: u32) -> Command {
    let mut command = Command::new("timeout");
    // In the foreground: Ctrl-C ends it too.
    command.args(["--foreground", &limit_s.to_string(), "qemu-system-x86_64"]);
    command.args(accelerator.arguments()).args(["-smp", "2"]);
    // The server of files writes into the machine's memory.
    command.args(["-m", MEMORY, "-object", &format!("memory-backend-memfd,id=memory,size={MEMORY},share=on")]);
    command.args(["-numa", "node,memdev=memory", "-chardev", &format!("socket,id=files,path={}", socket.display())]);
    command.args(["-device", "vhost-user-fs-pci,chardev=files,tag=host"]);
    command.args(["-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"]);
    // The kernel's own lines on the first serial line, the tests' on the second.
    command.args(["-serial", &format!("file:{}", log.display()), "-serial", "stdio"]);
    command.arg("-kernel").arg(image).arg("-initrd").arg(initramfs).args(["-append", KERNEL_ARGUMENTS]);
    command
}

/// The process that serves this machine's files.
struct Server(Child);

impl Server {
    fn start(socket: &Path) -> Result<Self> {
        _ = fs::remove_file(socket);
        let child = Command::new(VIRTIOFSD)
            .arg(format!("--socket-path={}", socket.display()))
            // Nothing is written to, so what the other kernel has read may stay in its memory.
            .args(["-f", "-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=always", "-o", "log_level=err"])
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {VIRTIOFSD}"))?;
        let server = Self(child);
        let begun = Instant::now();
        while !socket.exists() {
            if begun.elapsed() > SERVER_PATIENCE {
                bail!("{VIRTIOFSD} did not start");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends with the machine.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Shows what the tests write until the machine ends. Returns the status that it has said.
fn listen(mut output: impl BufRead) -> Result<Option<String>> {
    let (mut verdict, mut line) = (None, Vec::new());
    loop {
        line.clear();
        if output.read_until(b'\n', &mut line).context("cannot read what the machine writes")? == 0 {
            return Ok(verdict);
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\r', '\n']);
        match text.strip_prefix(VERDICT) {
            Some(status) => verdict = Some(status.to_owned()),
            None => writeln!(io::stdout(), "{text}")?,
        }
    }
}

/// A kernel that complains about itself has found something, even where all tests passed.
fn no_complaints(kernel_said: &str) -> Result<()> {
    let complaints: Vec<&str> =
        kernel_said.lines().filter(|line| line.contains("BUG:") || line.contains("WARNING:")).collect();
    if complaints.is_empty() {
        return Ok(());
    }
    bail!("all went well, but the kernel complains:\n{}", complaints.join("\n"))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_line_of_its_own_is_a_verdict() {
        let verdict = |text: &str| listen(text.as_bytes()).unwrap();
        assert_eq!(verdict("test a ... ok\r\n\r\nmemtrace-vm: status 0\r\n").as_deref(), Some("0"));
        assert_eq!(verdict("memtrace-vm: status 101\r\n").as_deref(), Some("101"));
        assert_eq!(verdict("test a ... memtrace-vm: status 0\r\n"), None);
        assert_eq!(verdict("test a ... "), None);
    }

    #[test]
    fn complaints_of_the_kernel_are_failures() {
        assert!(no_complaints("[ 1.0] Run /init as init process\n").is_ok());
        assert!(no_complaints("[ 1.0] BUG: scheduling while atomic: truth/1\n").is_err());
        assert!(no_complaints("[ 1.0] WARNING: CPU: 0 PID: 1 at kernel/events/uprobes.c\n").is_err());
    }
}
