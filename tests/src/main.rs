// SPDX-License-Identifier: GPL-2.0

//! The commands behind `make demo`, `make vm` and `make kunit`.

mod cmd;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Boot a kernel with the module, and be the other end of its cable.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a stock kernel's log as it arrives over UDP
    Demo,
    /// Play with the module in a guest
    Vm(cmd::vm::Options),
    /// Run the module's KUnit tests
    Kunit,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo => cmd::demo::run(),
        Command::Vm(options) => cmd::vm::run(&options),
        Command::Kunit => cmd::kunit::run(),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
