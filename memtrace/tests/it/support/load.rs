//! Software that we did not write, each kept busy until its test ends.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::chown, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tempfile::TempDir;

use super::{InTime, Running, Target, eventually, patience, scratch};

/// A busy process, with what keeps it busy and what it needs. All of it goes with the test.
pub(crate) struct Busy {
    pub(crate) target: Target,
    client: Option<Client>,
    _folder: Option<TempDir>,
}

enum Client {
    Process(Running),
    Thread(Arc<AtomicBool>, Option<JoinHandle<()>>),
}

impl Busy {
    fn alone(target: Target) -> Self {
        Self { target, client: None, _folder: None }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        match &mut self.client {
            Some(Client::Process(client)) => client.kill(),
            Some(Client::Thread(done, thread)) => {
                done.store(true, Ordering::Relaxed);
                _ = thread.take().map(JoinHandle::join);
            }
            None => {}
        }
    }
}

/// Debian's python3, which allocates objects of more than 512 bytes with malloc, as it does growing lists.
pub(crate) fn python() -> Busy {
    let script = "
import time
kept = []
print('running', flush=True)
while True:
    kept.append(bytearray(3000))
    [bytes(700) for _ in range(50)]
    if len(kept) > 5000: kept.clear()
    time.sleep(0.001)
";
    let mut target = Target::start(Command::new("/usr/bin/python3").args(["-c", script]));
    assert_eq!(target.line(), "running");
    Busy::alone(target)
}

/// Debian's perl: hashes, strings, regular expressions, sorting.
pub(crate) fn perl() -> Busy {
    let script = r#"
$| = 1; print "running\n";
while (1) {
    my %words;
    $words{"key$_" =~ s/y/z/r} .= "value $_ " x 20 for 1 .. 2000;
    my @sorted = sort { $words{$a} cmp $words{$b} } keys %words;
    my $text = join ",", map { reverse } @sorted;
    select undef, undef, undef, 0.01;
}
"#;
    let mut target = Target::start(Command::new("/usr/bin/perl").args(["-e", script]));
    assert_eq!(target.line(), "running");
    Busy::alone(target)
}

/// A process that is given `input` again and again.
fn fed(command: &mut Command, output: Stdio, input: &str, folder: TempDir) -> Busy {
    let (reader, writer) = io::pipe().unwrap();
    let client = Running::start(Command::new("yes").arg(input).stdout(writer).stderr(Stdio::null()));
    let target = Target::fed(command, reader, output);
    Busy { target, client: Some(Client::Process(client)), _folder: Some(folder) }
}

/// Debian's sqlite3: transactions of 20,000 inserts.
pub(crate) fn sqlite() -> Busy {
    let folder = scratch();
    let mut command = Command::new("/usr/bin/sqlite3");
    command
        .args(["-cmd", "create table t(a integer primary key, b text); select 'running';"])
        .arg(folder.path().join("db"))
        .stderr(Stdio::null());
    let input = "with recursive n(i) as (select 1 union all select i+1 from n where i<20000) \
         insert into t(b) select printf('row %d', i) from n; delete from t;";
    let mut busy = fed(&mut command, Stdio::piped(), input, folder);
    assert_eq!(busy.target.line(), "running");
    busy
}

/// Debian's postgres, as the single process that it can be; it does not run as root.
pub(crate) fn postgres() -> Busy {
    const NOBODY: u32 = 65534;
    let folder = scratch();
    chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let data = folder.path().join("data");
    let bin = Path::new("/usr/lib/postgresql/15/bin");
    let made = Command::new(bin.join("initdb"))
        .args(["--no-sync", "--auth=trust", "-D"])
        .arg(&data)
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .output_in_time();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut command = Command::new(bin.join("postgres"));
    command.args(["--single", "-D"]).arg(&data).arg("postgres").uid(NOBODY).gid(NOBODY).stderr(Stdio::null());
    let input = "create table if not exists t(a int, b text);\n\
         insert into t select i, 'row ' || i from generate_series(1, 5000) i;\n\
         select count(*), max(b) from (select b, count(*) from t group by b order by b limit 2000) s;\n\
         delete from t;\n\
         vacuum t;";
    fed(&mut command, Stdio::null(), input, folder)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A connection to a server that must answer in time.
fn connected(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    stream.set_write_timeout(Some(patience())).unwrap();
    stream
}

/// Debian's nginx, one process, which is sent a request about each millisecond.
pub(crate) fn nginx() -> Busy {
    let folder = scratch();
    let port = free_port();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {};", path(name)))
        .collect();
    let configuration = format!(
        "daemon off; master_process off; user root; pid {}; error_log {};\n\
         events {{}}\n\
         http {{ access_log off; {temporary}\n\
         server {{ listen 127.0.0.1:{port}; location / {{ return 200 'hello'; }} }} }}\n",
        path("pid"),
        path("error")
    );
    fs::write(folder.path().join("conf"), configuration).unwrap();
    let target = Target::start(Command::new("/usr/sbin/nginx").args(["-c", &path("conf"), "-e", &path("error")]));
    eventually("nginx listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let done = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&done);
    let client = thread::spawn(move || {
        while !until.load(Ordering::Relaxed) {
            let mut stream = connected(port);
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.ends_with("hello"), "{answer}");
            thread::sleep(Duration::from_millis(1));
        }
    });
    Busy { target, client: Some(Client::Thread(done, Some(client))), _folder: Some(folder) }
}

/// Debian's redis, on jemalloc, without anything to do.
pub(crate) struct Redis {
    pub(crate) target: Target,
    pub(crate) port: u16,
}

pub(crate) fn redis_idle() -> Redis {
    let port = free_port();
    let target = Target::start(Command::new("/usr/bin/redis-server").args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
    ]));
    eventually("redis listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    Redis { target, port }
}

/// One connection to redis, by its inline protocol.
pub(crate) struct RedisClient {
    stream: BufReader<TcpStream>,
}

impl RedisClient {
    pub(crate) fn connect(port: u16) -> Self {
        Self { stream: BufReader::new(connected(port)) }
    }

    /// Sends commands that are answered by a line each, a hundred at a time.
    pub(crate) fn all(&mut self, commands: impl IntoIterator<Item = String>) {
        let commands: Vec<String> = commands.into_iter().collect();
        for some in commands.chunks(100) {
            self.stream.get_mut().write_all((some.join("\r\n") + "\r\n").as_bytes()).unwrap();
            for command in some {
                let answer = self.line();
                assert!(answer.starts_with(['+', ':']), "{command}: {answer}");
            }
        }
    }

    /// The memory that it says it holds, in bytes.
    pub(crate) fn used_memory(&mut self) -> u64 {
        self.memory("used_memory")
    }

    /// A figure of its report on its memory.
    pub(crate) fn memory(&mut self, field: &str) -> u64 {
        self.stream.get_mut().write_all(b"INFO memory\r\n").unwrap();
        let length: usize = self.line().trim_start_matches('$').parse().unwrap();
        let mut text = vec![0; length + 2];
        self.stream.read_exact(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
        line.parse().unwrap()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

/// The same under its own benchmark.
pub(crate) fn redis() -> Busy {
    let Redis { target, port } = redis_idle();
    let port = port.to_string();
    let mut benchmark = Command::new("/usr/bin/redis-benchmark");
    benchmark.args(["-p", &port, "-t", "set,lpush,hset,zadd", "-n", "10000000", "-r", "50000", "-d", "100", "-q"]);
    let client = Running::start(benchmark.stdin(Stdio::null()).stdout(Stdio::null()));
    Busy { target, client: Some(Client::Process(client)), _folder: None }
}
