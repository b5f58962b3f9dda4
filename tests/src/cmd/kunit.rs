// SPDX-License-Identifier: GPL-2.0

//! `nctest kunit`: the tests inside the module, which run when it is loaded.

use std::time::Duration;

use anyhow::{ensure, Result};
use nctest::env::Guest;
use nctest::ktap::Report;
use nctest::vm::{Vm, VmConfig, MODULE};

/// Thorough tests take their time in an emulated machine.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs them. True if none failed.
pub fn run() -> Result<bool> {
    let mut vm = Vm::start(VmConfig::new("kunit", Guest::test()?))?;
    // The kernel has run suites of its own by now.
    vm.settle()?;
    let said = vm.serial.len();
    let output = vm.agent.exec(&format!("insmod {MODULE}"), LIMIT)?;
    ensure!(output.code == 0, "insmod: {}", output.text);
    vm.settle()?;
    let lines = vm.serial.lines(said);
    let report = Report::parse(lines.iter().map(String::as_str));
    for case in &report.cases {
        println!("{case}");
    }
    let (passed, failed) = report.totals();
    if failed > 0 {
        println!("{}", report.diagnostics.join("\n"));
    }
    for broken in &report.broken {
        println!("{broken}");
    }
    ensure!(passed + failed > 0, "the module has reported no tests");
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0 && report.broken.is_empty())
}
