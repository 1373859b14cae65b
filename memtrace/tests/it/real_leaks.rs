//! Leaks of packages that we did not write, known and fixed: the old version leaks at the site that was mended, the
//! fixed one nowhere.
//!
//! Each program of `programs/real_leaks` says in its first lines what package it uses, in which versions, and a function
//! that is on the stack of what leaks.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::support::{self, InTime, Target, Tracing, load, losses, process, programs};

/// The facts that the first lines of a program say.
struct Leak {
    program: PathBuf,
    package: String,
    registry: String,
    old: String,
    fixed: String,
    function: String,
}

impl Leak {
    fn of(program: &str) -> Self {
        let program = programs().join("real_leaks").join(program);
        let text = fs::read_to_string(&program).unwrap();
        let said = |key: &str| {
            let mut lines = text.lines().map(|line| line.trim_start_matches(['#', '/', ' ']));
            let value = lines.find_map(|line| line.strip_prefix(key)).map(str::to_owned);
            value.unwrap_or_else(|| panic!("{} does not say its {key}", program.display()))
        };
        let words = said("package: ");
        let [package, "of", registry, "old", old, "fixed", fixed] =
            words.split([' ', ',']).filter(|word| !word.is_empty()).collect::<Vec<_>>()[..]
        else {
            panic!("{}: {words}", program.display());
        };
        let [package, registry, old, fixed] = [package, registry, old, fixed].map(str::to_owned);
        Self { function: said("leak: "), program, package, registry, old, fixed }
    }

    /// The program with one version of its package, which is installed if that was not done before.
    fn with(&self, version: &str) -> Command {
        match self.registry.as_str() {
            "PyPI" => {
                let mut command = Command::new(PYTHON);
                command.arg(&self.program).env("PYTHONPATH", self.package_of_pypi(version));
                command
            }
            "crates.io" => Command::new(self.program_with_crate(version)),
            other => panic!("an unknown registry: {other}"),
        }
    }

    /// The folder with a package and nothing that it depends on: the programs need none of that.
    fn package_of_pypi(&self, version: &str) -> PathBuf {
        let folder = self.folder(version);
        if !folder.exists() {
            // An installation that is broken off leaves nothing under the final name.
            let partial = self.folder(&format!("{version}-partial"));
            _ = fs::remove_dir_all(&partial);
            let mut pip = Command::new(PYTHON);
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"])
                .args(["--no-deps", &format!("{}=={version}", self.package), "--target"])
                .arg(&partial);
            self.install(version, &mut pip);
            fs::rename(&partial, &folder).unwrap();
        }
        folder
    }

    /// The program, compiled with a crate.
    fn program_with_crate(&self, version: &str) -> PathBuf {
        let folder = self.folder(version);
        fs::create_dir_all(&folder).unwrap();
        let manifest = folder.join("Cargo.toml");
        // Optimized and with lines, as programs are that are traced; not of our workspace.
        let text = format!(
            "[package]\nname = \"leak\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
             [[bin]]\nname = \"leak\"\npath = {:?}\n\
             [dependencies]\n{} = \"={version}\"\n\
             [profile.release]\ndebug = 1\n\
             [workspace]\n",
            self.program, self.package
        );
        fs::write(&manifest, text).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--release", "--manifest-path"]).arg(manifest);
        self.install(version, cargo.arg("--target-dir").arg(folder.join("target")));
        folder.join("target/release/leak")
    }

    fn folder(&self, version: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("real-leaks");
        fs::create_dir_all(&folder).unwrap();
        folder.join(format!("{}-{version}", self.package))
    }

    fn install(&self, version: &str, by: &mut Command) {
        let output = by.output_in_time();
        assert!(
            output.status.success(),
            "cannot install {} {version}, which takes {} within reach:\n{}",
            self.package,
            self.registry,
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Whether a site is where this leaks.
    fn is_at(&self, site: &Value) -> bool {
        let mut frames = site["frames"].as_array().unwrap().iter();
        frames.any(|frame| frame["function"].as_str().is_some_and(|name| name.contains(&self.function)))
    }

    /// Asserts that memtrace suspects the site that leaks, and no other one, in the old version, and nothing in the
    /// fixed one.
    fn assert_told(&self, old: &Value, fixed: &Value) {
        for (version, report) in [(&self.old, old), (&self.fixed, fixed)] {
            assert_eq!(losses(process(report)), []);
            println!("{} {version}: {}", self.package, self.figures(report));
        }
        let suspects = |report| sites(report).filter(|site| site["verdict"] == "leak-suspect").collect::<Vec<_>>();
        let of_old = suspects(old);
        assert!(!of_old.is_empty(), "{} {}: nothing is suspected", self.package, self.old);
        assert!(of_old.iter().all(|site| self.is_at(site)), "{} {}: {of_old:#?}", self.package, self.old);
        let of_fixed = suspects(fixed);
        assert!(of_fixed.is_empty(), "{} {}: {of_fixed:#?}", self.package, self.fixed);
    }

    /// The words of a report on the sites where this leaks, and of the others as a whole.
    fn figures(&self, report: &Value) -> String {
        let [mut here, mut elsewhere] = [(0, 0.0), (0, 0.0)];
        let mut verdicts = Vec::new();
        for site in sites(report) {
            let sum = if self.is_at(site) { &mut here } else { &mut elsewhere };
            sum.0 += site["live_bytes"].as_u64().unwrap();
            sum.1 += site["growth_bytes_per_s"].as_f64().unwrap();
            if self.is_at(site) && site["live_bytes"].as_u64().unwrap() > 0 {
                verdicts.push(site["verdict"].as_str().unwrap());
            }
        }
        let [here, elsewhere] =
            [here, elsewhere].map(|(live, growth)| format!("{} KiB live, {:+.1} KiB/s", live / 1024, growth / 1024.0));
        format!("{here} in {} {verdicts:?}; {elsewhere} elsewhere", self.function)
    }
}

/// Debian's interpreter, as in `support::load`.
const PYTHON: &str = "/usr/bin/python3";

fn sites(report: &Value) -> impl Iterator<Item = &Value> {
    process(report)["sites"].as_array().unwrap().iter()
}

/// A program with the old version of its package and with the fixed one, both of which run and are traced.
struct Traced {
    leak: Leak,
    /// They end with this.
    _targets: [Target; 2],
    tracers: [Tracing; 2],
}

impl Traced {
    /// Begins to trace both at the same time, as users do who say nothing of how.
    fn begin(program: &str, arguments: &[&str]) -> Self {
        let leak = Leak::of(program);
        let commands = [leak.with(&leak.old), leak.with(&leak.fixed)];
        let targets = commands.map(|mut command| {
            let mut target = Target::start(command.args(arguments));
            assert_eq!(target.line(), "running");
            target
        });
        let tracers = targets.each_ref().map(|target| trace(target.pid()));
        Self { leak, _targets: targets, tracers }
    }

    fn finish(self) {
        let [old, fixed] = self.tracers.map(|tracer| {
            let (status, output, messages) = tracer.finish();
            assert_eq!(status, 0, "{messages}");
            serde_json::from_str(&output).unwrap()
        });
        self.leak.assert_told(&old, &fixed);
    }
}

fn trace(pid: u32) -> Tracing {
    let mut command = support::memtrace();
    command.args(["--pid", &pid.to_string(), "--duration", "60s", "--format", "json"]);
    Tracing::run(&mut command)
}

#[test]
#[ignore = "long: fetches packages, and traces them for a minute"]
fn the_leaks_of_five_old_packages_are_told_and_the_fixed_ones_are_left_alone() {
    let redis = load::redis_idle();
    let all = [
        Traced::begin("hiredis_map.py", &[&redis.port.to_string()]),
        Traced::begin("ujson_dump.py", &[]),
        Traced::begin("lz4_frame.py", &[]),
        Traced::begin("pymongo_invalid.py", &[]),
        Traced::begin("bytes_owner.rs", &[]),
    ];
    all.into_iter().for_each(Traced::finish);
}
