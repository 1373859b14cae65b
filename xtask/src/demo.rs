//! The bundled program that leaks: compiled, started, and ended with its owner.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::shell::{root, run, target};

/// The running program.
pub(crate) struct Demo(Child);

impl Demo {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Compiles the program and starts it.
pub(crate) fn start() -> Result<Demo> {
    let folder = target().join("demo");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let program = folder.join("leaky");
    let mut compile = Command::new("cc");
    compile.args(["-g", "-O1", "-fno-omit-frame-pointer", "-pthread", "-o"]).arg(&program);
    run(compile.arg(root().join("xtask/demo/leaky.c")))?;
    let child = Command::new(&program)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    Ok(Demo(child))
}
