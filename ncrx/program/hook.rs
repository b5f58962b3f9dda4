// SPDX-License-Identifier: GPL-2.0

//! `--on-crash`: a program that is run for each crash, with its report on standard input. No shell
//! has a part in it, and nothing of a sender is in its arguments or its environment.

use std::env;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{killpg, Signal};
use nix::unistd::{eaccess, AccessFlags, Pid};

use crate::crashes::Crash;
use crate::format::report;

/// The most that run at a time.
const AT_A_TIME: usize = 4;
/// The most crashes that wait for one to end.
const QUEUE: usize = 64;
/// The longest that one may run.
const LONGEST: Duration = Duration::from_secs(30);
/// The time from one look at whether it has ended to the next.
const LOOK: Duration = Duration::from_millis(20);
/// The longest wait for those that run at the end.
const LAST: Duration = Duration::from_secs(2);

/// The program that is run for crashes, if there is one: it may change.
#[derive(Default)]
pub struct Hook {
    running: Mutex<Option<Running>>,
    counts: Arc<Counts>,
}

/// The way to the threads that run a program.
struct Running {
    words: Vec<String>,
    to: SyncSender<Arc<Crash>>,
}

/// The counts of the hook.
#[derive(Debug, Default)]
struct Counts {
    /// Crashes for which it was not run, or not to its end.
    failed: AtomicU64,
    /// Crashes that wait, or for which it runs.
    pending: AtomicUsize,
}

impl Hook {
    /// Runs this program with these arguments for each crash that is told from now on; none without
    /// it. Those that wait for the one before are told to that.
    pub fn set(&self, words: Option<&[String]>) -> io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.as_ref().map(|running| &running.words[..]) == words {
            return Ok(());
        }
        *running = words.map(|words| self.start(words)).transpose()?;
        Ok(())
    }

    fn start(&self, words: &[String]) -> io::Result<Running> {
        let (to, crashes) = mpsc::sync_channel(QUEUE);
        let crashes = Arc::new(Mutex::new(crashes));
        let words = words.to_vec();
        for nth in 0..AT_A_TIME {
            let (words, crashes) = (words.clone(), crashes.clone());
            let counts = self.counts.clone();
            let thread = thread::Builder::new().name(format!("on-crash-{nth}"));
            thread.spawn(move || run_all(&words, &crashes, &counts))?;
        }
        Ok(Running { words, to })
    }

    /// Has it run for a crash, if not too many wait.
    pub fn tell(&self, crash: &Arc<Crash>) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = running.as_ref() else {
            return;
        };
        self.counts.pending.fetch_add(1, Relaxed);
        if running.to.try_send(crash.clone()).is_err() {
            self.counts.pending.fetch_sub(1, Relaxed);
            self.counts.failed.fetch_add(1, Relaxed);
        }
    }

    /// Returns for how many crashes it was not run, or has failed.
    pub fn failed(&self) -> u64 {
        self.counts.failed.load(Relaxed)
    }

    /// Waits for those that run, for two seconds at most.
    pub fn finish(&self) {
        let end = Instant::now() + LAST;
        while self.counts.pending.load(Relaxed) > 0 && Instant::now() < end {
            thread::sleep(LOOK);
        }
    }
}

/// Returns an error if there is no such program, looked for as it will be when it is run.
pub fn check(words: &[String]) -> io::Result<()> {
    let runs = |path: &Path| path.is_file() && eaccess(path, AccessFlags::X_OK).is_ok();
    let program = Path::new(&words[0]);
    let path = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let found = match words[0].contains('/') {
        true => runs(program),
        false => env::split_paths(&path).any(|at| runs(&at.join(program))),
    };
    match found {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "there is no such program that may be run: write its whole path",
        )),
    }
}

fn run_all(words: &[String], crashes: &Mutex<Receiver<Arc<Crash>>>, counts: &Counts) {
    loop {
        let next = crashes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok(crash) = next else { return };
        if let Err(e) = run(words, LONGEST, report(&crash)) {
            counts.failed.fetch_add(1, Relaxed);
            tracing::warn!("--on-crash {}: {e}", words[0]);
        }
        counts.pending.fetch_sub(1, Relaxed);
    }
}

/// Runs it to its end.
fn run(words: &[String], longest: Duration, input: Vec<u8>) -> io::Result<()> {
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // So that those that it has started end with it.
        .process_group(0)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may not read, and then this ends with it.
        thread::Builder::new()
            .name("on-crash-input".into())
            .spawn(move || stdin.write_all(&input))?;
    }
    let end = Instant::now() + longest;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= end {
            kill(&mut child);
            return Err(io::Error::other(format!(
                "it has not ended in {longest:?}: killed"
            )));
        }
        thread::sleep(LOOK);
    };
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(status.to_string())),
    }
}

fn kill(child: &mut Child) {
    let group = i32::try_from(child.id()).map(Pid::from_raw);
    let killed = group.is_ok_and(|group| killpg(group, Signal::SIGKILL).is_ok());
    if !killed {
        let _ = child.kill();
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(Into::into).collect()
    }

    #[test]
    fn one_that_hangs_is_killed_with_those_that_it_has_started() {
        let began = Instant::now();
        let short = Duration::from_millis(200);
        // It reads nothing of a long input.
        let input = vec![b'x'; 1 << 20];
        let error = run(&words("sh -c sleep${IFS}600&wait"), short, input).unwrap_err();
        assert!(error.to_string().contains("killed"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn programs_are_looked_up() {
        assert!(check(&words("sh -c x")).is_ok() && check(&words("/bin/sh")).is_ok());
        for none in ["/no/such/program", "no-such-program", "/etc/passwd", "/tmp"] {
            assert!(check(&words(none)).is_err(), "{none}");
        }
    }

    #[test]
    fn what_fails_is_told() {
        let long = Duration::from_secs(60);
        assert!(run(&words("true"), long, Vec::new()).is_ok());
        assert!(run(&words("false"), long, Vec::new()).is_err());
        assert!(run(&words("/no/such/program"), long, Vec::new()).is_err());
    }
}
