// SPDX-License-Identifier: GPL-2.0

//! The commands behind `make demo`, `make vm` and `make kunit`.

mod cmd;

use std::process::ExitCode;

use anyhow::{bail, ensure, Result};
use pico_args::Arguments;

const HELP: &str = "\
Boots a kernel with the module, and is the other end of its cable.

  nctest demo     Show a stock kernel's log as it arrives over UDP
  nctest vm       Play with the module in a guest
    --stock         Debian's kernel instead of the test kernel
    --two-cards     Give the guest a second network card
  nctest kunit    Run the module's KUnit tests";

fn main() -> ExitCode {
    match run(Arguments::from_env()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command that is named. True if all was well.
fn run(mut arguments: Arguments) -> Result<bool> {
    if arguments.contains(["-h", "--help"]) {
        println!("{HELP}");
        return Ok(true);
    }
    let command = arguments.subcommand()?.unwrap_or_default();
    let options = cmd::vm::Options {
        stock: arguments.contains("--stock"),
        two_cards: arguments.contains("--two-cards"),
    };
    let rest = arguments.finish();
    ensure!(
        rest.is_empty(),
        "{rest:?}: nothing that nctest knows\n\n{HELP}"
    );
    match command.as_str() {
        "demo" => cmd::demo::run(),
        "vm" => cmd::vm::run(&options),
        "kunit" => cmd::kunit::run(),
        other => bail!("{other:?} is no command\n\n{HELP}"),
    }
}
