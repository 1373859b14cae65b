//! Debian's nginx on loopback: one process that answers every request with a word.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until a server listens.
pub(crate) fn connect(port: u16) -> Result<TcpStream> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return Ok(stream),
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
            Err(error) => return Err(error).context("a server does not listen"),
        }
    }
}

/// Starts it with its files in `folder`, and waits until it listens. Returns its port as well.
pub(crate) fn start(folder: &Path) -> Result<(Child, u16)> {
    let port = free_port()?;
    let path = |name: &str| folder.join(name).display().to_string();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {};", path(name)))
        .concat();
    let configuration = format!(
        "daemon off; master_process off; user root; pid {}; error_log {};\nevents {{}}\nhttp {{ access_log off; {temporary}\n\
         server {{ listen 127.0.0.1:{port}; location / {{ return 200 'hello'; }} }} }}\n",
        path("pid"),
        path("error")
    );
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(folder.join("nginx.conf"), configuration)?;
    let mut command = Command::new("/usr/sbin/nginx");
    command.args(["-c", &path("nginx.conf"), "-e", &path("error")]);
    let server = command.stdin(Stdio::null()).spawn().context("cannot run nginx")?;
    drop(connect(port)?);
    Ok((server, port))
}
