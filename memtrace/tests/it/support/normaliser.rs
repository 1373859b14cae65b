//! Outputs of memtrace without their differences from run to run and from machine to machine: figures that depend on time
//! become their kind, and stacks end at `main`. Words, fields and their order stay.

use std::{borrow::Cow, fmt, fs, sync::LazyLock};

use regex::{Captures, Regex};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};

use super::programs;

/// The program that does the same each time.
pub(crate) const SOURCE: &str = "recorded.c";

/// The frames between the program's `main` and the first of its thread.
const OUTWARDS: &str = "(outwards of main)";
/// Successive frames of the C library or of the kernel.
const FOREIGN: &str = "(not the program's)";

/// The figures that stay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Figures {
    /// Those of blocks: every run has the same.
    Exact,
    /// None: estimates, or the kernel's.
    Kinds,
    /// The same of windows: whether any of their blocks lives depends on the moment.
    Windows,
}

/// The sites that are told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sites {
    All,
    /// Those with a function on their stacks.
    Of(&'static str),
    /// The first of the kernel's sites with a function on their stacks: how many there are depends on the kernel.
    FirstOfKernel(&'static str),
}

impl Sites {
    fn function(self) -> Option<&'static str> {
        match self {
            Self::All => None,
            Self::Of(function) | Self::FirstOfKernel(function) => Some(function),
        }
    }

    fn are_the_kernels(self) -> bool {
        matches!(self, Self::FirstOfKernel(_))
    }

    fn most(self) -> usize {
        if self.are_the_kernels() { 1 } else { usize::MAX }
    }
}

/// JSON whose objects keep the order of their fields.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Json {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    Array(Vec<Self>),
    Object(Fields),
}

/// The fields of an object in the order in which they are written.
struct Fields(Vec<(String, Json)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                std::iter::from_fn(|| map.next_entry().transpose()).collect::<Result<_, _>>().map(Fields)
            }
        }
        from.deserialize_map(InOrder)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Json {
    fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    fn field(&self, name: &str) -> &Self {
        let Self::Object(Fields(fields)) = self else { return &Self::Null };
        fields.iter().find(|(field, _)| field == name).map_or(&Self::Null, |(_, value)| value)
    }

    fn is(&self, expected: &str) -> bool {
        matches!(self, Self::Text(text) if text == expected)
    }

    /// Whether a string anywhere within it is `expected`.
    fn has(&self, expected: &str) -> bool {
        match self {
            Self::Array(items) => items.iter().any(|item| item.has(expected)),
            Self::Object(Fields(fields)) => fields.iter().any(|(_, value)| value.has(expected)),
            other => other.is(expected),
        }
    }
}

/// Fields that are there or null, or a verdict, by what the windows of a run have met.
const OF_WINDOWS: [&str; 5] = ["unexplained_rss_bytes", "peak", "verdict", "sizes", "freed_at"];

/// Normalises outputs of one kind of run.
pub(crate) struct Normaliser {
    figures: Figures,
    sites: Sites,
    /// The folder of the run's own files, as it stands in outputs.
    folder: String,
    source: String,
}

impl Normaliser {
    pub(crate) fn new(figures: Figures, sites: Sites, folder: &str) -> Self {
        let source = fs::read_to_string(programs().join(SOURCE)).unwrap();
        Self { figures, sites, folder: folder.to_owned(), source }
    }

    /// A JSON report, with a field a line.
    pub(crate) fn json(&self, report: &str) -> String {
        let report: Json = serde_json::from_str(report).unwrap_or_else(|error| panic!("{error}: {report:?}"));
        let normal = self.value("", report, true);
        serde_json::to_string_pretty(&normal).unwrap() + "\n"
    }

    /// The value of a field. `is_exact`: whether figures of blocks are.
    fn value(&self, name: &str, value: Json, is_exact: bool) -> Json {
        match value {
            // Depends on whether memtrace has read figures between the work and the end.
            _ if name == "before_end" && !matches!(value, Json::Null) => Json::Null,
            _ if self.figures == Figures::Windows && OF_WINDOWS.contains(&name) => Json::text("…"),
            Json::Object(Fields(fields)) => {
                let has_verdict = fields.iter().any(|(name, _)| name == "verdict");
                let normal = fields.into_iter().map(|(name, value)| {
                    let is_of_verdict = name == "reason" && has_verdict && self.figures == Figures::Windows;
                    let value = if is_of_verdict { Json::text("…") } else { self.value(&name, value, is_exact) };
                    (name, value)
                });
                Json::Object(Fields(normal.collect()))
            }
            Json::Array(items) => self.array(name, items, is_exact),
            Json::Number(number) if self.stays(name, is_exact) => Json::Number(number),
            Json::Number(_) => Json::text("number"),
            Json::Text(text) => Json::Text(match name {
                "host" | "kernel" | "started_at" | "id" | "build_id" | "trend" => name.to_owned(),
                _ => self.words(&text),
            }),
            other => other,
        }
    }

    /// Whether a number is the same in every run.
    fn stays(&self, name: &str, is_exact: bool) -> bool {
        const ALWAYS: [&str; 8] = [
            "line",
            "sample_bytes",
            "max_overhead",
            "generation_ns",
            "suspects",
            "suppressed",
            "in_baseline",
            "sites_left_out",
        ];
        const OF_BLOCKS: [&str; 7] = ["live_", "alloc_", "freed_", "unreachable_", "born_", "up_to_", "unmatched_"];
        const UNITS: [&str; 3] = ["_bytes", "_objects", "_frees"];
        let is_of_blocks =
            || OF_BLOCKS.iter().any(|start| name.starts_with(start)) && UNITS.iter().any(|unit| name.ends_with(unit));
        // The ledger and the peak are of moments.
        let is_of_a_moment = matches!(name, "live_heap_bytes" | "live_mmap_bytes");
        ALWAYS.contains(&name) || self.figures == Figures::Exact && is_exact && is_of_blocks() && !is_of_a_moment
    }

    fn array(&self, name: &str, items: Vec<Json>, is_exact: bool) -> Json {
        let mut normal = Vec::new();
        match name {
            "frames" => return Json::Array(self.frames(items)),
            "functions" | "not_seen" if self.sites.are_the_kernels() => normal.push(Json::text("…")),
            // As long as the run.
            "series" | "generations" | "sizes" | "freed_at" if !items.is_empty() => {
                normal.extend(items.into_iter().take(1).map(|item| self.value("", item, false)));
                normal.push(Json::text("…"));
            }
            "tiers" => normal.extend(items.into_iter().take(2).map(|item| self.value("", item, false))),
            "sites" => {
                let is_told = |site: &Json| self.sites.function().is_none_or(|function| site.has(function));
                let told = items.into_iter().filter(is_told).take(self.sites.most());
                normal.extend(told.map(|site| self.value("", site, is_exact)));
            }
            "live_bytes" | "live_objects" | "alloc_bytes" | "alloc_objects" | "freed_bytes" | "freed_objects" => {
                return Json::text("interval");
            }
            _ => normal.extend(items.into_iter().map(|item| self.value(name, item, is_exact))),
        }
        Json::Array(normal)
    }

    fn frames(&self, frames: Vec<Json>) -> Vec<Json> {
        let mut normal: Vec<Json> = Vec::new();
        for frame in frames {
            let is_main = frame.field("function").is("main");
            if !self.is_own(&frame) {
                if !self.sites.are_the_kernels() && !normal.last().is_some_and(|last| last.is(FOREIGN)) {
                    normal.push(Json::text(FOREIGN));
                }
                continue;
            }
            normal.push(self.value("", frame, false));
            if is_main {
                normal.push(Json::text(OUTWARDS));
                break;
            }
        }
        normal
    }

    /// Whether a frame is the program's, or of the kernel's function that was asked for.
    fn is_own(&self, frame: &Json) -> bool {
        let Json::Text(function) = frame.field("function") else { return false };
        self.names(function) || self.sites.function() == Some(function)
    }

    /// Whether a function is the program's.
    fn names(&self, function: &str) -> bool {
        self.source.contains(&format!(" {function}("))
    }

    /// Folded stacks: `process;root;…;leaf weight`.
    pub(crate) fn folded(&self, stacks: &str) -> String {
        let normal = stacks.lines().filter_map(|line| {
            let (stack, weight) = line.rsplit_once(' ')?;
            let frames: Vec<&str> = stack.split(';').collect();
            if self.sites.function().is_some_and(|function| !frames.contains(&function)) {
                return None;
            }
            let main = frames.iter().position(|frame| *frame == "main");
            let mut normal = vec![frames[0]];
            normal.extend(main.map(|_| OUTWARDS));
            let inner = frames.iter().skip(main.unwrap_or(1));
            normal.extend(inner.map(|frame| if self.names(frame) { *frame } else { FOREIGN }));
            normal.dedup();
            let weight = if self.figures == Figures::Exact { weight } else { "number" };
            Some(format!("{} {weight}\n", normal.join(";")))
        });
        normal.take(self.sites.most()).collect()
    }

    /// The table for a person: its lines of words, then a row a site, with two blanks between columns.
    pub(crate) fn table(&self, table: &str) -> String {
        let mut normal = String::new();
        // How wide the first column is, within a table of sites.
        let mut width = None;
        let mut rows: Vec<Vec<String>> = Vec::new();
        for line in table.lines().filter(|line| !self.depends_on_the_run(line)) {
            match width {
                Some(width) if !line.is_empty() => {
                    if !line.starts_with(&" ".repeat(width)) {
                        rows.push(Vec::new());
                    }
                    rows.last_mut().unwrap().push(line.to_owned());
                }
                _ => {
                    normal.extend(self.rows(std::mem::take(&mut rows)));
                    normal.push_str(&(self.line(line) + "\n"));
                    let first = line.split_whitespace().next().filter(|_| line.ends_with("  SITE"));
                    width = first.and_then(|first| Some(line.find(first)? + first.len()));
                }
            }
        }
        normal.extend(self.rows(rows));
        normal
    }

    /// Whether a line is there or not from run to run, or kernel to kernel.
    fn depends_on_the_run(&self, line: &str) -> bool {
        line.starts_with("before end ")
            || self.figures != Figures::Exact && line.starts_with("peak ")
            || self.figures == Figures::Windows && line.starts_with("note ")
            || self.sites.are_the_kernels() && line.starts_with("not seen ")
    }

    /// The rows of the sites that are told.
    fn rows(&self, rows: Vec<Vec<String>>) -> impl Iterator<Item = String> {
        let is_told = |row: &Vec<String>| {
            let of = |function: &str| row.iter().any(|line| line.split(' ').any(|word| word == function));
            self.sites.function().is_none_or(of)
        };
        rows.into_iter().filter(is_told).take(self.sites.most()).map(|row| self.row(&row))
    }

    /// A site's row, whose stack ends at `main`.
    fn row(&self, lines: &[String]) -> String {
        const REMARKS: [&str; 4] = ["why: ", "freed elsewhere: ", "suppressed by ", "in the baseline"];
        let mut row: Vec<String> = Vec::new();
        let mut is_outwards = false;
        for line in lines.iter().map(|line| self.row_line(line)) {
            let is_remark = REMARKS.iter().any(|start| line.trim_start().starts_with(start));
            if is_remark && self.figures == Figures::Windows {
                continue;
            }
            let is_more_of_foreign =
                line.trim_start() == FOREIGN && row.last().is_some_and(|last| last.ends_with(FOREIGN));
            if is_remark || !is_outwards && !is_more_of_foreign {
                is_outwards |= line.contains(&format!("  main  {SOURCE}:"));
                row.push(line);
                if is_outwards && !is_remark {
                    row.push(format!("  {OUTWARDS}"));
                }
            }
        }
        row.join("\n") + "\n"
    }

    /// A line of the table.
    fn line(&self, line: &str) -> String {
        /// Lines that tell of moments.
        const OF_MOMENTS: [&str; 9] =
            ["RSS ", "held ", "memory ", "ledger ", "limit ", "cost ", "estimate ", "peak ", "pages "];
        let mut line = self.words(line);
        if self.figures != Figures::Exact || OF_MOMENTS.iter().any(|start| line.starts_with(start)) {
            line = SIZE.replace_all(&line, "SIZE").into_owned();
            line = PERCENT.replace_all(&line, "PERCENT").into_owned();
            line = COUNT.replace_all(&line, "${before}COUNT${after}").into_owned();
            line = TIMELINE.replace(&line, "").into_owned();
            line = line.replace("-SIZE", "SIZE").replace("; SIZE in live blocks", "; of that SIZE in live blocks");
            line = line.replace("of it not touched, or where older blocks were", "not explained");
        }
        if line.starts_with("cost ") {
            // Too little CPU time has none.
            line = line.replace(" (PERCENT)", "");
        }
        if self.figures == Figures::Windows {
            line = VERDICT.replace(&line, "VERDICT").into_owned();
            line = INTERVAL.replace_all(&line, "INTERVAL").into_owned();
        }
        line = BLANKS.replace_all(&line, "  ").into_owned();
        line = OF_PROCESS.replace(&line, "PID${of_blocks}SIZE${trend}").into_owned();
        line
    }

    /// A line of a site's row, which ends with a frame or a remark.
    fn row_line(&self, line: &str) -> String {
        let told = |found: &Captures<'_>| match &found["function"] {
            function if self.names(function) => found[0].to_owned(),
            _ => format!("  {}{FOREIGN}", found.name("kind").map_or("", |kind| kind.as_str())),
        };
        FRAME.replace(&self.line(line), told).into_owned()
    }

    /// Lines of stderr, or `JUnit`.
    pub(crate) fn messages(&self, text: &str) -> String {
        let mut normal = String::new();
        let mut lines = text.split_inclusive('\n').peekable();
        while let Some(line) = lines.next() {
            if line.starts_with("memtrace: warning: no names from libc.so") {
                // A busy machine takes too long for it. No frame of the C library is told by its name here.
                lines.next_if(|hint| hint.starts_with("hint: "));
            } else if !(self.sites.are_the_kernels() && line.starts_with("memtrace: not seen: ")) {
                normal.push_str(line);
            }
        }
        self.words(&normal)
    }

    /// Words in which times, rates and names of the machine are told by their kind.
    fn words(&self, text: &str) -> String {
        let text = text.replace(&self.folder, "FOLDER").replace(env!("CARGO_MANIFEST_DIR"), "SOURCES");
        WORDS.iter().fold(text, |text, (found, instead)| match found.replace_all(&text, *instead) {
            Cow::Borrowed(_) => text,
            Cow::Owned(replaced) => replaced,
        })
    }
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap()
}

static WORDS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let words = [
        (r"/(usr/)?lib[^\s;,)]*/(?<name>[^\s/;,)]+\.so[.\d]*)", "$name"),
        (r"memtrace-recorded-\d+-\d{8}T\d{6}Z", "memtrace-recorded-PID-TIME"),
        (r"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)", "TIME"),
        (r"\b(pid|process) \d+", "$1 PID"),
        (r"\bRSS \d+(\.\d+)? [KMGT]?i?B", "RSS SIZE"),
        (r"(main recorded\.c:\d+)\n[^<]*<", "$1\n(outwards of main)<"),
        (r"\bsite [0-9a-f]{16}", "site ID"),
        (r"[+-]?\d+(\.\d+)? [KMGTPE]?i?B/s", "RATE"),
        (r"\b(\d+ h \d+ min|\d+ min \d+ s|\d+(\.\d+)? m?s)\b", "TIME"),
        (r"\b(stable|increasing|decreasing) \((too early|unsteady|[^()]* %)\)", "TREND"),
        (r"takes \d+(\.\d+)? % of the CPU time", "takes PERCENT of the CPU time"),
    ];
    words.map(|(text, instead)| (pattern(text), instead)).into()
});
static SIZE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b\d+(\.\d+)? [KMGTPE]?i?B\b"));
static PERCENT: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b\d+(\.\d+)? %"));
/// A count between blanks, as cells and sentences have them.
static COUNT: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?<before> )[\d,]+(?<after> )"));
/// Resident memory since the start, where it was read more than once.
static TIMELINE: LazyLock<Regex> = LazyLock::new(|| pattern(r" +SIZE [▁▂▃▄▅▆▇█]+ SIZE"));
static VERDICT: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b(too-early|stable|plateau|growing|leak-suspect)\b"));
/// An interval, whose upper end may be unknown.
static INTERVAL: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"SIZE (?:(?:-|to) SIZE|or more)|COUNT (?:to COUNT|or more)"));
static BLANKS: LazyLock<Regex> = LazyLock::new(|| pattern(r"  +"));
/// The row of a process among several, with its resident memory.
static OF_PROCESS: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^ *\d+(?<of_blocks>  .*  )\S+ [KMGT]?i?B(?<trend>  RATE  TREND  )"));
/// A frame at the end of a line: a function with its source or image, or a function of the kernel.
static FRAME: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"  (?<kind>\[[a-z ]+\] )?(?<function>[A-Za-z_][^\s+]*|\S+\+0x[0-9a-f]+)(  \S+\.\w+:\d+|  \[\S+\])?( \(inlined\))?$",
    )
});
