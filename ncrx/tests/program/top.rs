// SPDX-License-Identifier: GPL-2.0

//! `ncrx top` in a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::thread;

use nix::pty::{openpty, Winsize};
use nix::sys::signal::{kill, Signal};
use nix::sys::termios::{tcgetattr, LocalFlags};
use nix::unistd::Pid;

use crate::crashes::{oops, send};
use crate::harness::{command, until, Ncrx, Sender};

/// `ncrx top` in a terminal of its own.
struct Terminal {
    ours: File,
    theirs: File,
    seen: Receiver<Vec<u8>>,
    all: Vec<u8>,
    child: Child,
}

impl Terminal {
    fn start(index: &str) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None).unwrap();
        let (ours, theirs) = (File::from(pty.master), File::from(pty.slave));
        let stdio = || Stdio::from(theirs.try_clone().unwrap());
        let child = command(["top", "--index", index])
            .env("TERM", "xterm-256color")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let mut from = ours.try_clone().unwrap();
        let (to, seen) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = from.read(&mut buffer) {
                if to.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            ours,
            theirs,
            seen,
            all: Vec::new(),
            child,
        }
    }

    #[track_caller]
    fn until_seen(&mut self, part: &str) {
        until(&format!("the terminal shows {part:?}"), || {
            self.all.extend(self.seen.try_iter().flatten());
            String::from_utf8_lossy(&self.all)
                .contains(part)
                .then_some(())
        });
    }

    fn is_raw(&self) -> bool {
        let flags = tcgetattr(self.theirs.as_fd()).unwrap().local_flags;
        !flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    /// Waits until it has ended and left the terminal as it was.
    #[track_caller]
    fn until_restored(&mut self) {
        let status = until("it has ended", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
        self.until_seen("\u{1b}[?1049l");
        assert!(!self.is_raw());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_terminal_shows_hosts_and_reports_and_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index").display().to_string();
    let ncrx = Ncrx::start(&format!("--index {index}"));
    let sender = Sender::bound("127.0.0.2:0", ncrx.at);
    let mut lines = oops("foo_bar", 7);
    lines[0] = "before it \\x1b[2Jx".into();
    send(&sender, &lines, 7);

    let mut terminal = Terminal::start(&index);
    for part in ["\u{1b}[?1049h", "127.0.0.2", "foo_bar", "Filter"] {
        terminal.until_seen(part);
    }
    assert!(terminal.is_raw());
    // The other list, the report of its first line.
    terminal.ours.write_all(b"\t\r").unwrap();
    // Only what changes is written: blanks need not be.
    terminal.until_seen("\\x1b[2Jx");
    terminal.ours.write_all(b"qq").unwrap();
    terminal.until_restored();

    let mut terminal = Terminal::start(&index);
    terminal.until_seen("127.0.0.2");
    kill(Pid::from_raw(terminal.child.id() as i32), Signal::SIGTERM).unwrap();
    terminal.until_restored();
}
