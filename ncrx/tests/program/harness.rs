// SPDX-License-Identifier: GPL-2.0

//! The harness: a running `ncrx`, and a sender that behaves as the module.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

/// The longest time to wait for something that has to happen. The machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);
/// The time to wait for something that must not happen.
const IMPATIENCE: Duration = Duration::from_millis(700);

/// Returns the program with these arguments.
pub fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ncrx"));
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
    command
}

/// The running program; killed when this is dropped.
pub struct Ncrx {
    pub child: Child,
    log: Receiver<String>,
    /// The address that it listens on.
    pub at: SocketAddr,
}

impl Ncrx {
    /// Starts it on a port of the kernel's choice. `args` are separated by blanks.
    pub fn start(args: &str) -> Self {
        Self::start_at("127.0.0.1:0", args)
    }

    /// Starts it on this address.
    pub fn start_at(listen: &str, args: &str) -> Self {
        Self::run(command(["--listen", listen]).args(args.split_whitespace()))
    }

    /// Starts this command, which listens on one address.
    pub fn run(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (to, log) = channel();
        thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| to.send(line))
        });
        let at = ([127, 0, 0, 1], 0).into();
        let mut ncrx = Self { child, log, at };
        let line = ncrx.wait_log("listening on ");
        ncrx.at = line.rsplit(' ').next().unwrap().parse().unwrap();
        ncrx
    }

    /// Waits until it logs a line that contains this.
    #[track_caller]
    pub fn wait_log(&self, part: &str) -> String {
        let end = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Ok(line) = self
            .log
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            if line.contains(part) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line with {part:?} in {seen:#?}");
    }

    /// Waits until it logs a line for each of these, in whatever order.
    #[track_caller]
    pub fn wait_all_log(&self, parts: &[&str]) {
        let mut missing = parts.to_vec();
        while !missing.is_empty() {
            // Any line will do, as long as one comes.
            let line = self.wait_log("");
            missing.retain(|part| !line.contains(part));
        }
    }

    /// Makes sure that it logs no line that contains this for a while.
    #[track_caller]
    pub fn no_log(&self, part: &str) {
        let end = Instant::now() + IMPATIENCE;
        loop {
            match self
                .log
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(line) => assert!(!line.contains(part), "{line}"),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Returns the rest of its log, once it has ended.
    pub fn rest_of_log(&self) -> Vec<String> {
        self.log.iter().collect()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Sets a resource limit of it, by an option of prlimit(1).
    pub fn limit(&self, option: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("prlimit")
            .args(["--pid", &pid, option])
            .status();
        assert!(status.unwrap().success(), "{option}");
    }

    /// Asks it to end, and waits until it has ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits until it has ended.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        until("ncrx ends", || self.child.try_wait().unwrap())
    }

    /// Returns the metrics that it shows at this address.
    pub fn scrape(&self, metrics: SocketAddr) -> String {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(metrics).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    }
}

impl Drop for Ncrx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a function returns something.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a file contains this.
#[track_caller]
pub fn until_contains(path: &Path, part: &str) {
    until(&format!("{} contains {part:?}", path.display()), || {
        std::fs::read_to_string(path)
            .ok()?
            .contains(part)
            .then_some(())
    });
}

/// A sender, with a session of its own. Its record 0 is missing until a test sends it or the
/// program asks for it.
pub struct Sender {
    socket: UdpSocket,
    /// Its session.
    pub session: u64,
}

static SESSIONS: AtomicU64 = AtomicU64::new(1);

impl Sender {
    /// Returns a sender that accepts responses from this address only, like the module.
    pub fn new(to: SocketAddr) -> Self {
        Self::bound("127.0.0.1:0", to)
    }

    /// Returns the same, bound to this address.
    pub fn bound(from: &str, to: SocketAddr) -> Self {
        let socket = UdpSocket::bind(from).unwrap();
        socket.connect(to).unwrap();
        Self {
            socket,
            session: SESSIONS.fetch_add(1, Relaxed),
        }
    }

    /// Returns the address that it sends from.
    pub fn at(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Sends a record, `text <seq>`.
    pub fn send(&self, seq: u64) {
        let (usec, session) = (seq * 1000, self.session);
        self.send_raw(&format!("6,{seq},{usec},-,ncs={session:016x};text {seq}\n"));
    }

    pub fn send_raw(&self, datagram: &str) {
        self.send_bytes(datagram.as_bytes());
    }

    pub fn send_bytes(&self, datagram: &[u8]) {
        // The program may not run.
        let _ = self.socket.send(datagram);
    }

    /// Returns the next response: the number that it acknowledges and the ranges that it asks for.
    pub fn response(&self, wait: Duration) -> Option<(u64, Vec<(u64, u64)>)> {
        let mut buffer = [0; 2000];
        self.socket.set_read_timeout(Some(wait)).unwrap();
        let length = self.socket.recv(&mut buffer).ok()?;
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        let mut words = text.strip_prefix("nca").unwrap().split(' ');
        let ack = words.next().unwrap().parse().unwrap_or(0);
        let range = |word: &str| {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        Some((ack, words.filter_map(range).collect()))
    }

    /// Sends the records that are asked for, up to `last`, until this number is acknowledged. After
    /// a long time without a response the last one is sent again, as by the module.
    #[track_caller]
    pub fn settle(&self, last: u64, ack: u64) -> u64 {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "{ack} is not acknowledged");
            match self.response(Duration::from_millis(200)) {
                Some((acked, _)) if acked >= ack => return acked,
                Some((_, missing)) => {
                    for (first, end) in missing {
                        (first..=end.min(last)).for_each(|seq| self.send(seq));
                    }
                }
                None => self.send(last),
            }
        }
    }

    /// Makes sure that nothing is acknowledged for a while.
    #[track_caller]
    pub fn no_ack(&self) {
        let end = Instant::now() + IMPATIENCE;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if let Some((ack, _)) = self.response(left.max(Duration::from_millis(1))) {
                assert_eq!(ack, 0);
            }
        }
    }
}

/// Returns the lines of a text file, without the wall clock's time that each begins with.
pub fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let timeless = |line: &str| {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.len() == 27 && time.ends_with('Z'), "{line}");
        rest.to_owned()
    };
    text.lines().map(timeless).collect()
}

/// Returns the numbers in a text file of records that [`Sender::send`] has sent.
pub fn numbers(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap();
    let number = |line: &str| line.rsplit_once("text ")?.1.parse().ok();
    text.lines().filter_map(number).collect()
}
