//! `JUnit` XML, which every CI shows: a test suite a process, a test case a suspect. Those that something lets pass are skipped
//! tests, those that remain are failures, and what was to be checked and was not is an error.

use std::io::{self, Write};

use quick_junit::{NonSuccessKind, Report as Document, TestCase, TestCaseStatus, TestSuite};

use super::{
    suspects::{culprit, place},
    words,
};
use crate::{
    analysis::gate::{is_suspect, remains},
    model::{
        outcome::Unseen,
        report::{Process, Report, Site},
    },
};

/// Writes the report as one document.
///
/// # Errors
/// Where `out` refuses.
pub fn render(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut document = Document::new("memtrace");
    let unseen = report.gate.as_ref().map(|outcome| outcome.unseen.as_slice()).unwrap_or_default();
    let is_of = |unseen: &Unseen, process: &Process| {
        unseen
            .process
            .as_ref()
            .is_some_and(|(pid, comm)| *pid == process.subject.pid() && *comm == process.subject.comm())
    };
    document.add_test_suites(report.processes.iter().map(|process| {
        let own: Vec<&Unseen> = unseen.iter().filter(|unseen| is_of(unseen, process)).collect();
        suite(process, &own)
    }));
    let of_run: Vec<&Unseen> = unseen.iter().filter(|unseen| unseen.process.is_none()).collect();
    if !of_run.is_empty() {
        let mut suite = TestSuite::new("memtrace");
        suite.add_test_cases(of_run.iter().map(|unseen| not_checked(unseen, "memtrace")));
        document.add_test_suite(suite);
    }
    document.serialize(out).map_err(io::Error::other)
}

/// The suite of a process of which `unseen` was not checked.
fn suite(process: &Process, unseen: &[&Unseen]) -> TestSuite {
    let comm = process.subject.comm();
    let mut suite = TestSuite::new(format!("{comm} (pid {})", process.subject.pid()));
    let mut add = |name: String, status| {
        let mut case = TestCase::new(name, status);
        case.set_classname(&*comm);
        case
    };
    suite.add_test_cases(
        process.sites.iter().filter(|site| is_suspect(site)).map(|site| suspect(process, site, &mut add)),
    );
    suite.add_test_cases(unseen.iter().map(|unseen| not_checked(unseen, &comm)));
    if unseen.is_empty() && !process.sites.iter().any(remains) {
        // A suite of no tests is an error to some.
        suite.add_test_case(add("no leak suspects".to_owned(), TestCaseStatus::success()));
    }
    suite
}

fn not_checked(unseen: &Unseen, class: &str) -> TestCase {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    status.set_type(unseen.why.cause().name());
    status.set_message(format!("not checked: {}", words::unchecked::reason(&unseen.why)));
    let mut case = TestCase::new("leaks were looked for", status);
    case.set_classname(class);
    case
}

fn suspect(process: &Process, site: &Site, add: &mut impl FnMut(String, TestCaseStatus) -> TestCase) -> TestCase {
    let frame = culprit(process, &site.stack);
    let why: Vec<String> = [words::verdict::of_site(site)].into_iter().chain(words::outcome::marks(site)).collect();
    let mut status = if remains(site) {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        status.set_type(site.judgement.verdict.name());
        status
    } else {
        TestCaseStatus::skipped()
    };
    status.set_message(why.join("; "));
    status.set_description(site.stack.frames().map(place).collect::<Vec<_>>().join("\n"));
    let mut case = add(format!("{} (site {:016x})", frame.map_or("(no stack)".into(), place), site.id), status);
    let function = frame.and_then(|frame| frame.function.as_ref().ok());
    if let Some(file) = function.and_then(|function| function.file.as_deref()) {
        case.extra.insert("file".into(), file.into());
    }
    if let Some(line) = function.and_then(|function| function.line) {
        case.extra.insert("line".into(), line.to_string().into());
    }
    case
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        analysis::gate::{Gate, suppressions::Suppressions, unseen::Question},
        model::{
            at_exit::AtExit,
            finding::Finding,
            health::{HealthCounter, HealthKind},
            outcome::Outcome,
            unchecked::Unchecked,
            verdict::Verdict,
        },
        report::fixture,
    };

    fn rendered(report: &Report) -> String {
        let mut out = Vec::new();
        render(report, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn suspects_are_failures_unless_something_lets_them_pass() {
        let mut report = fixture::report();
        let process = &mut report.processes[0];
        let why = Unchecked::Killed { signal: 9 };
        process.findings.push(Finding::AtExit(AtExit::Unchecked(why)));
        let known = process.sites[0].clone();
        process.sites[1].judgement.verdict = Verdict::LeakSuspect;
        process.sites.push(known);
        let suppressions = Suppressions::parse("leak:libfoo").unwrap();
        Gate { suppressions, baseline: None }.mark(&mut report);
        report.processes[0].sites[2].in_baseline = true;
        report.health = vec![HealthCounter { name: "events_full", count: 2, kind: HealthKind::Loss }];
        report.gate = Some(Outcome::of(&report, Question::Ends));
        assert_eq!(rendered(&report), include_str!("junit.golden"));
    }

    #[test]
    fn where_nothing_is_suspected_one_test_has_passed() {
        let mut report = fixture::report();
        report.processes[0].sites.clear();
        assert!(rendered(&report).contains("tests=\"1\" skipped=\"0\" failures=\"0\""), "{}", rendered(&report));
    }
}
