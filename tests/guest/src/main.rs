// SPDX-License-Identifier: GPL-2.0

//! The init of a test guest, and the agent that serves the host.
//!
//! As PID 1 it prepares the system, starts itself again as the agent, reaps orphaned processes, and
//! switches the machine off when the agent is gone. Or it executes another init, which is to start
//! it as the agent.

mod agent;
mod allocations;
mod system;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::reboot::{reboot, RebootMode};
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;
use std::process::Command;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == "fail-nth") {
        println!("{}", allocations::fail_nth(&arguments[1..]));
        return;
    }
    if std::process::id() != 1 {
        if let Err(e) = agent::serve() {
            eprintln!("nctest-guest: {e:#}");
        }
        return;
    }
    if let Err(e) = init() {
        eprintln!("nctest-guest: init: {e:#}");
    }
    nix::unistd::sync();
    let _ = reboot(RebootMode::RB_POWER_OFF);
}

fn init() -> Result<()> {
    system::prepare()?;
    if let Some(init) = system::other_init()? {
        let failed = Command::new(&init).exec();
        return Err(failed).with_context(|| format!("starting {init}"));
    }
    let mut agent = Command::new("/proc/self/exe");
    let agent = Pid::from_raw(agent.arg("agent").spawn()?.id().try_into()?);
    let _shell = system::console_shell()?;
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) if pid == agent => {
                return Ok(())
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
