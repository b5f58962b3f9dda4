// SPDX-License-Identifier: GPL-2.0

//! KTAP, the format in which KUnit reports: TAP with nested subtests.

use std::fmt;

/// The outcome of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// `ok`.
    Passed,
    /// `not ok`.
    Failed,
    /// `ok ... # SKIP`.
    Skipped,
}

/// The result of a case or of a suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The depth of its nesting: 0 for a suite.
    pub depth: usize,
    /// Its name.
    pub name: String,
    /// Its outcome.
    pub outcome: Outcome,
}

/// The report of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// All results, each suite's after those of its cases.
    pub cases: Vec<Case>,
    /// The messages about failures: the lines with `# `.
    pub diagnostics: Vec<String>,
    /// Plans that were not kept: `1..N` without N results.
    pub broken: Vec<String>,
    plans: Vec<(usize, usize, usize)>,
}

impl Report {
    /// Reads the kernel's log, with or without time stamps, other lines between.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut report = Self::default();
        for line in lines {
            report.take(without_time(line));
        }
        report.close_deeper_than(None);
        report
    }

    /// Returns the results that are not made of others.
    pub fn leaves(&self) -> impl Iterator<Item = &Case> {
        self.cases.iter().enumerate().filter_map(|(i, case)| {
            // A suite's result comes right after its last case's.
            let parent = i > 0 && self.cases[i - 1].depth > case.depth;
            (!parent).then_some(case)
        })
    }

    /// Returns the numbers of passed and failed cases, skipped ones left out.
    pub fn totals(&self) -> (usize, usize) {
        let count = |outcome| self.leaves().filter(|case| case.outcome == outcome).count();
        (count(Outcome::Passed), count(Outcome::Failed))
    }

    fn take(&mut self, line: &str) {
        let text = line.trim_start_matches(' ');
        let depth = (line.len() - text.len()) / 4;
        if let Some(planned) = text.strip_prefix("1..").and_then(|n| n.trim().parse().ok()) {
            self.plans.push((depth, planned, 0));
        } else if let Some(case) = result(depth, text) {
            self.close_deeper_than(Some(depth));
            if let Some((_, _, seen)) = self.plans.iter_mut().rfind(|plan| plan.0 == depth) {
                *seen += 1;
            }
            self.cases.push(case);
        } else if text.starts_with("# ") {
            self.diagnostics.push(line.to_string());
        }
    }

    /// A result ends everything that is nested deeper.
    fn close_deeper_than(&mut self, depth: Option<usize>) {
        let deeper = |plan: &(usize, usize, usize)| depth.is_none_or(|depth| plan.0 > depth);
        while self.plans.last().is_some_and(deeper) {
            let Some((_, planned, seen)) = self.plans.pop() else {
                return;
            };
            if planned != seen {
                self.broken
                    .push(format!("{planned} cases were announced, {seen} reported"));
            }
        }
    }
}

/// Returns a line without the `[    1.234567] ` before it.
fn without_time(line: &str) -> &str {
    let rest = line
        .strip_prefix('[')
        .and_then(|line| line.split_once("] "));
    match rest {
        Some((time, rest)) if time.trim().parse::<f64>().is_ok() => rest,
        _ => line,
    }
}

fn result(depth: usize, text: &str) -> Option<Case> {
    let (failed, rest) = match text.strip_prefix("not ok ") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("ok ")?),
    };
    let (number, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    number.parse::<u32>().ok()?;
    let (name, directive) = rest.split_once('#').unwrap_or((rest, ""));
    let skipped = directive
        .trim_start()
        .to_ascii_uppercase()
        .starts_with("SKIP");
    let outcome = match (failed, skipped) {
        (true, _) => Outcome::Failed,
        (false, true) => Outcome::Skipped,
        (false, false) => Outcome::Passed,
    };
    let name = name.trim().trim_start_matches("- ").to_string();
    Some(Case {
        depth,
        name,
        outcome,
    })
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let word = match self.outcome {
            Outcome::Passed => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
        };
        write!(f, "{}{} ... {word}", "    ".repeat(self.depth), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
[    5.254800] KTAP version 1
[    5.254801] 1..2
[    5.254802]     KTAP version 1
[    5.254803]     # Subtest: wire
[    5.254804]     1..2
[    5.254878]     # round_trip.speed: normal
[    5.255078]     ok 1 round_trip
[    5.255079] eth0: something else
[    5.255080]     # limits: ASSERTION FAILED at wire.rs:12
[    5.255081]     not ok 2 limits
[    5.255244] not ok 1 wire
    KTAP version 1
    # Subtest: params
    1..1
        KTAP version 1
        ok 1 good
        ok 2 bad # SKIP no reason
    ok 1 table
ok 2 params
";

    #[test]
    fn nested_results() {
        let report = Report::parse(LOG.lines());
        let leaves: Vec<_> = report
            .leaves()
            .map(|c| (c.depth, c.name.as_str()))
            .collect();
        assert_eq!(
            leaves,
            [(1, "round_trip"), (1, "limits"), (2, "good"), (2, "bad")]
        );
        assert_eq!(report.totals(), (2, 1));
        assert_eq!(report.cases.last().unwrap().name, "params");
        assert!(report
            .diagnostics
            .iter()
            .any(|line| line.contains("wire.rs:12")));
        assert!(report.broken.is_empty(), "{:?}", report.broken);
    }

    #[test]
    fn a_run_that_breaks_off_is_noticed() {
        let lines = LOG.lines().filter(|line| !line.contains("not ok 2"));
        let report = Report::parse(lines);
        assert_eq!(report.broken, ["2 cases were announced, 1 reported"]);
        assert_eq!(Report::parse(LOG.lines().take(7)).broken.len(), 2);
    }
}
