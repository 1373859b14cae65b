//! `JUnit` XML, which every CI shows: a test suite a process, a test case a suspect. Those that something lets pass are skipped
//! tests, those that remain are failures.

use std::io::{self, Write};

use quick_junit::{NonSuccessKind, Report as Document, TestCase, TestCaseStatus, TestSuite};

use super::suspects::{culprit, marks, place};
use crate::model::{
    at_exit::AtExit,
    gate::{is_suspect, remains},
    report::{Process, Report, Site},
};

/// Writes the report as one document.
///
/// # Errors
/// Where `out` refuses.
pub fn render(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut document = Document::new("memtrace");
    document.add_test_suites(report.processes.iter().map(suite));
    document.serialize(out).map_err(io::Error::other)
}

fn suite(process: &Process) -> TestSuite {
    let mut suite = TestSuite::new(format!("{} (pid {})", process.comm, process.pid));
    let mut add = |name: String, status| {
        let mut case = TestCase::new(name, status);
        case.set_classname(process.comm.as_str());
        case
    };
    suite.add_test_cases(
        process.sites.iter().filter(|site| is_suspect(site)).map(|site| suspect(process, site, &mut add)),
    );
    if let Some(AtExit::Unchecked(why)) = &process.at_exit {
        let mut status = TestCaseStatus::skipped();
        status.set_message(format!("not checked for reachability: {why}"));
        suite.add_test_case(add("blocks can be reached at exit".to_owned(), status));
    }
    if !process.sites.iter().any(remains) {
        // A suite of no tests is an error to some.
        suite.add_test_case(add("no leak suspects".to_owned(), TestCaseStatus::success()));
    }
    suite
}

fn suspect(process: &Process, site: &Site, add: &mut impl FnMut(String, TestCaseStatus) -> TestCase) -> TestCase {
    let frame = culprit(process, &site.stack);
    let why: Vec<String> = [site.judgement.reason.clone()].into_iter().chain(marks(site)).collect();
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
        model::{gate::Gate, suppressions::Suppressions, verdict::Verdict},
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
        process.at_exit = Some(AtExit::Unchecked("killed by signal 9".into()));
        let known = process.sites[0].clone();
        process.sites[1].judgement.verdict = Verdict::LeakSuspect;
        process.sites.push(known);
        let suppressions = Suppressions::parse("leak:libfoo").unwrap();
        Gate { suppressions, baseline: None }.mark(&mut report);
        report.processes[0].sites[2].in_baseline = true;
        assert_eq!(rendered(&report), include_str!("junit.golden"));
    }

    #[test]
    fn where_nothing_is_suspected_one_test_has_passed() {
        let mut report = fixture::report();
        report.processes[0].sites.clear();
        assert!(rendered(&report).contains("tests=\"1\" skipped=\"0\" failures=\"0\""), "{}", rendered(&report));
    }
}
