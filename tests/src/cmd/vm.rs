// SPDX-License-Identifier: GPL-2.0

//! `nctest vm`: a guest with a shell on the terminal.

use std::fs::File;
use std::io::{stdin, stdout, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nctest::env::Guest;
use nctest::logger::Logger;
use nctest::show::Style;
use nctest::vm::{Vm, VmConfig, MODULE};
use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, SetArg, Termios};

use super::{log_host, ADDRESSES, HOST};

/// Ctrl-].
const LEAVE: u8 = 0x1d;

/// The options of `nctest vm`.
pub struct Options {
    /// Debian's kernel instead of the test kernel.
    pub stock: bool,
    /// A second network card.
    pub two_cards: bool,
}

/// Runs a guest until its shell is left.
pub fn run(options: &Options) -> Result<bool> {
    let guest = if options.stock {
        Guest::stock()?
    } else {
        Guest::test()?
    };
    let mut config = VmConfig::new("interactive", guest);
    config.append = "nctest.shell quiet kunit.enable=0".into();
    config.echo = Some(Box::new(stdout()));
    if options.two_cards {
        config.nics.push(config.nics[0]);
    }
    println!("Booting. The guest's shell will be here; Ctrl-] or `exit` leaves.");
    let mut vm = Vm::start(config)?;
    vm.sh(ADDRESSES)?;
    let path = vm.out.join("received.log");
    let mut received = File::create(&path).with_context(|| path.display().to_string())?;
    for wire in &vm.wires {
        wire.add_host(log_host());
    }
    let style = Style { colour: true };
    let _logger = Logger::attach_with(
        &vm.wires[0],
        6666,
        Box::new(move |collector, udp, completed| {
            if let Some(record) = completed.and_then(|seq| collector.records.get(&seq)) {
                // The output is only a convenience: the terminal must go on without it.
                let _ = writeln!(received, "{}", style.line(udp.from.ip(), record));
            }
            Vec::new()
        }),
    );
    println!("\r\nThe module is {MODULE}. To begin:\r");
    println!("    insmod {MODULE} netconsole=+@/eth0,@{HOST}/\r");
    println!(
        "What the log host {HOST} receives: tail -f {}\r",
        path.display()
    );
    vm.serial.type_in(b"\n")?;
    let raw = RawTerminal::new()?;
    forward_keys(&vm);
    drop(raw);
    vm.save_captures()?;
    println!(
        "\nThe wire's frames are in {}",
        vm.out.join("wire0.pcapng").display()
    );
    Ok(true)
}

/// Passes keys on until the user or the guest leaves.
fn forward_keys(vm: &Vm) {
    let (keys, typed) = std::sync::mpsc::channel();
    // It stays blocked in its last read, until the process ends.
    thread::spawn(move || {
        let mut key = [0];
        while let Ok(1) = stdin().read(&mut key) {
            if keys.send(key[0]).is_err() {
                return;
            }
        }
    });
    while !vm.serial.is_closed() {
        match typed.recv_timeout(Duration::from_millis(200)) {
            Ok(LEAVE) => return,
            Ok(key) => {
                if vm.serial.type_in(&[key]).is_err() {
                    return;
                }
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            // No terminal, and no more input: let the guest finish.
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                thread::sleep(Duration::from_millis(200));
            }
        }
    }
}

/// The terminal without line editing and echo, which the guest's does.
struct RawTerminal(Option<Termios>);

impl RawTerminal {
    fn new() -> Result<Self> {
        if !stdin().is_terminal() {
            return Ok(Self(None));
        }
        let saved = tcgetattr(stdin().as_fd())?;
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin().as_fd(), SetArg::TCSANOW, &raw)?;
        Ok(Self(Some(saved)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(saved) = &self.0 {
            let _ = tcsetattr(stdin().as_fd(), SetArg::TCSANOW, saved);
        }
    }
}
