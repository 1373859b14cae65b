//! Folded stacks, one line a site: `process;root;…;leaf weight`, as flame graph tools read them.

use std::{
    cmp::Reverse,
    io::{self, Write},
};

use super::weight::Weight;
use crate::model::report::{Report, Site};

/// Writes every site of every process that weighs anything, heaviest first in each process.
///
/// # Errors
/// Where `out` refuses.
pub fn render(report: &Report, weight: Weight, top: Option<usize>, out: &mut dyn Write) -> io::Result<()> {
    for process in &report.processes {
        let mut weighed: Vec<(u64, &Site)> = process.sites.iter().map(|site| (weight.of(site), site)).collect();
        // Stable: sites of the same weight stay in the report's order.
        weighed.sort_by_key(|(amount, _)| Reverse(*amount));
        for (amount, site) in weighed.into_iter().take(top.unwrap_or(usize::MAX)).filter(|(amount, _)| *amount > 0) {
            write!(out, "{}", frame_name(&process.subject.comm()))?;
            if site.truncation.is_some() {
                write!(out, ";[truncated]")?;
            }
            for frame in site.stack.frames().rev() {
                write!(out, ";{}", frame_name(&frame.label()))?;
            }
            writeln!(out, " {amount}")?;
        }
    }
    Ok(())
}

/// A name that cannot be taken for the end of a frame or of a line. (Blanks may stay: the weight is what
/// follows the last one.)
pub(super) fn frame_name(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            ';' => ':',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn lines_run_root_first_and_carry_the_weight() {
        let mut out = Vec::new();
        render(&fixture::report(), Weight::InuseSpace, None, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "demo:1;main;handle_request;keep 4096\n\
             demo:1;[truncated];libfoo.so+0x1234 100\n"
        );
    }

    #[test]
    fn every_weight_chooses_its_own_figure() {
        let lines = |weight| {
            let mut out = Vec::new();
            render(&fixture::report(), weight, Some(1), &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert!(lines(Weight::InuseObjects).ends_with(" 4\n"));
        assert!(lines(Weight::AllocSpace).ends_with(" 8192\n"));
        assert!(lines(Weight::AllocObjects).ends_with(" 8\n"));
        assert!(lines(Weight::Growth).ends_with(" 410\n"));
    }
}
