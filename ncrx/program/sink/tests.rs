// SPDX-License-Identifier: GPL-2.0

//! Tests of outputs: files, pipes, rotation, full disks, readers that stall.

use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::Instant;

use nix::libc::O_NONBLOCK;
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::*;

/// How long to wait for what has to happen. The machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

const POLICY: Policy = Policy {
    sync: true,
    rotate_bytes: None,
    keep: 0,
    compress: false,
    ending: Ending::Newline,
};

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// An output, and a worker's inbox.
struct Bench {
    sink: Sink,
    settled: Arc<Settled>,
    pushed: usize,
    refused: u64,
}

impl Bench {
    fn new(place: Place, policy: Policy) -> Self {
        Self::with(place, policy, &pool(100), 0, 1 << 20)
    }

    fn with(place: Place, policy: Policy, pool: &Arc<Pool>, nth: usize, limit: usize) -> Self {
        let opening = Opening {
            nth,
            place,
            policy,
            compressor: Compressor::new(Vec::new()).unwrap(),
            promised: true,
            alone: false,
            limit,
        };
        Self {
            sink: Sink::open(opening, pool, Box::new(|| {})).unwrap(),
            settled: Arc::new(Settled::new().unwrap()),
            pushed: 0,
            refused: 0,
        }
    }

    fn file(path: &Path) -> Self {
        Self::new(Place::File(path.into()), POLICY)
    }

    fn push(&mut self, host: &str, text: &str) {
        self.push_of(host, text, false);
    }

    fn push_of(&mut self, host: &str, text: &str, proven: bool) {
        let parcel = Parcel::new(Vec::new(), self.settled.clone());
        self.pushed += 1;
        let facts = Facts {
            host,
            at: ([127, 0, 0, 1], 1).into(),
            day: 0,
            value: &|_| None,
        };
        let file = match &self.sink.place {
            Place::PerHost(path) => Template::parse(path).unwrap().path(&facts),
            _ => String::new(),
        };
        self.sink.queue.push(Batch {
            file: file.into(),
            host: host.into(),
            bytes: text.into(),
            records: 1,
            proven,
            parcels: vec![parcel],
        });
    }

    /// How much is not settled.
    fn open(&mut self) -> usize {
        for (_, refused) in self.settled.take().outcomes {
            self.pushed -= 1;
            self.refused += u64::from(refused != 0);
        }
        self.pushed
    }

    #[track_caller]
    fn wait(&mut self, open: usize) {
        until("it is written", || self.open() == open);
    }

    /// Writes it, and waits until it is.
    #[track_caller]
    fn put(&mut self, host: &str, text: &str) {
        self.push(host, text);
        self.wait(0);
    }

    /// Waits until it has been tried in vain.
    #[track_caller]
    fn fails(&mut self) {
        let errors = || self.sink.status().errors.load(Relaxed);
        let before = errors();
        until("it fails", || errors() > before);
    }
}

fn pool(limit: usize) -> Arc<Pool> {
    Arc::new(Pool::with_limit(limit, 1000))
}

fn template(directory: &TempDir, name: &str) -> Place {
    Place::PerHost(format!("{}/{name}", directory.path().display()))
}

#[test]
fn a_file_is_appended_to() {
    let dir = directory();
    let path = dir.path().join("a/b/log");
    Bench::file(&path).put("", "one\n");
    let mut bench = Bench::file(&path);
    bench.push("", "two\n");
    bench.put("", "three\n");
    assert_eq!(read(&path), "one\ntwo\nthree\n");
    assert_eq!(bench.sink.status().bytes.load(Relaxed), 0);
}

#[test]
fn nothing_is_glued_to_a_torn_line() {
    let dir = directory();
    let path = dir.path().join("log");
    for (torn, expected) in [
        ("half", "half\nnew\n"),
        ("whole\n", "whole\nnew\n"),
        ("", "new\n"),
    ] {
        fs::write(&path, torn).unwrap();
        Bench::file(&path).put("", "new\n");
        assert_eq!(read(&path), expected);
        fs::write(&path, torn).unwrap();
        Bench::new(template(&dir, "{host}"), POLICY).put("log", "new\n");
        assert_eq!(read(&path), expected);
    }
}

#[test]
fn a_torn_entry_is_moved_aside() {
    let dir = directory();
    let path = dir.path().join("log");
    let old = |n: u32| dir.path().join(format!("log.{n}"));
    let ending = Ending::BlankLine;
    let open = || Bench::new(Place::File(path.clone()), Policy { ending, ..POLICY });
    fs::write(&path, "A=whole\n\n").unwrap();
    open().put("", "B=new\n\n");
    assert_eq!(
        (read(&path).as_str(), old(1).exists()),
        ("A=whole\n\nB=new\n\n", false)
    );
    // Nothing of it is removed, even though no old files are to be kept.
    for (n, torn) in ["A=whole\n\nB=half", "A=1\n", "A"].iter().enumerate() {
        fs::write(&path, torn).unwrap();
        open().put("", "B=new\n\n");
        assert_eq!(
            (read(&path).as_str(), read(old(1)).as_str()),
            ("B=new\n\n", *torn),
            "{n}"
        );
    }
    assert_eq!(read(old(3)), "A=whole\n\nB=half");
}

#[test]
fn hosts_have_their_files() {
    let dir = directory();
    let mut bench = Bench::new(template(&dir, "{host}/log-{host}"), POLICY);
    for (host, name) in [
        ("10.0.0.2", "10.0.0.2"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("10.0.0.2:40001", "10.0.0.2:40001"),
        ("..", "_."),
        ("../../etc/x", "_._.._etc_x"),
        ("a\0b\n", "a_b_"),
        ("", "_"),
    ] {
        bench.put(host, "x\n");
        let path = dir.path().join(format!("{name}/log-{name}"));
        assert_eq!(read(path), "x\n", "{host:?}");
    }
    bench.put(&"\u{e4}".repeat(300), "x\n");
}

#[test]
fn a_file_that_is_too_long_is_rotated() {
    let dir = directory();
    let path = dir.path().join("log");
    let old = |n: u32| dir.path().join(format!("log.{n}"));
    fs::write(&path, "1\n").unwrap();
    let rotating = |keep| Policy {
        sync: false,
        rotate_bytes: Some(4),
        keep,
        ..POLICY
    };
    let mut bench = Bench::new(Place::File(path.clone()), rotating(2));
    bench.put("", "2\n");
    assert_eq!(read(&path), "1\n2\n");
    bench.put("", "3\n");
    assert_eq!((read(&path), read(old(1))), ("3\n".into(), "1\n2\n".into()));
    // Longer than is allowed, but not torn.
    bench.put("", "4444444\n");
    assert_eq!(
        (read(&path), read(old(1)), read(old(2))),
        ("4444444\n".into(), "3\n".into(), "1\n2\n".into())
    );
    bench.put("", "5\n");
    assert_eq!(
        (read(&path), read(old(1)), read(old(2))),
        ("5\n".into(), "4444444\n".into(), "3\n".into())
    );
    assert!(!old(3).exists());
    // As after a rotation that got stuck: what is there need not move.
    fs::remove_file(old(1)).unwrap();
    bench.put("", "6666\n");
    assert_eq!(
        (read(&path), read(old(1)), read(old(2))),
        ("6666\n".into(), "5\n".into(), "3\n".into())
    );

    let mut bench = Bench::new(Place::File(path.clone()), rotating(0));
    bench.put("", "7\n");
    assert_eq!((read(&path), read(old(1))), ("7\n".into(), "5\n".into()));
}

#[test]
fn files_are_opened_anew() {
    let dir = directory();
    let path = dir.path().join("log");
    let moved = dir.path().join("moved");
    let mut bench = Bench::file(&path);
    bench.put("", "1\n");
    fs::rename(&path, &moved).unwrap();
    bench.put("", "2\n");
    bench.sink.reopen();
    bench.put("", "3\n");
    bench.put("", "4\n");
    assert_eq!(
        (read(&moved), read(&path)),
        ("1\n2\n".into(), "3\n4\n".into())
    );
}

#[test]
fn only_so_many_files_are_open_of_all_outputs() {
    let dir = directory();
    let pool = pool(3);
    let one = template(&dir, "{host}.one");
    let mut one = Bench::with(one, POLICY, &pool, 0, 1000);
    let two = template(&dir, "{host}.two");
    let mut two = Bench::with(two, POLICY, &pool, 1, 1000);
    for _ in 0..3 {
        for host in ["a", "b", "c", "d"] {
            one.put(host, "x\n");
            two.put(host, "x\n");
            assert!(pool.len() <= 3);
        }
    }
    for file in ["a.one", "b.two", "c.one", "d.two"] {
        assert_eq!(read(dir.path().join(file)), "x\nx\nx\n");
    }
    assert!(pool.evicted() >= 20);
}

#[test]
fn only_so_many_files_are_made_a_minute() {
    let dir = directory();
    let pool = Arc::new(Pool::with_limit(100, 2));
    let mut bench = Bench::with(template(&dir, "{host}"), POLICY, &pool, 0, 1000);
    fs::write(dir.path().join("old"), "x\n").unwrap();
    bench.put("a", "x\n");
    bench.put("b", "x\n");
    bench.push("c", "x\n");
    // Those that are there can be written.
    bench.put_others(&["a", "b", "old"]);
    assert!(!dir.path().join("c").exists());
    assert!(bench.sink.status().blocked_since().is_some());
}

/// A host that has proven itself gets a file, however many strangers have used up.
#[test]
fn who_has_proven_itself_gets_a_file() {
    let dir = directory();
    let pool = Arc::new(Pool::with_limit(100, 1));
    let mut bench = Bench::with(template(&dir, "{host}"), POLICY, &pool, 0, 1000);
    bench.put("a", "x\n");
    bench.push("b", "x\n");
    bench.push("c", "x\n");
    until("they wait", || {
        bench.sink.status().blocked_since().is_some()
    });
    bench.push_of("d", "x\n", true);
    bench.wait(2);
    assert_eq!(read(dir.path().join("d")), "x\n");
    // Also by what comes later.
    bench.push_of("c", "y\n", true);
    bench.wait(1);
    assert_eq!(read(dir.path().join("c")), "x\ny\n");
    assert!(!dir.path().join("b").exists());
}

/// However many wait: neither files that are open nor room in the queue.
#[test]
fn strangers_keep_no_files_from_others() {
    let dir = directory();
    let pool = Arc::new(Pool::with_limit(10, 2));
    let mut bench = Bench::with(template(&dir, "{host}"), POLICY, &pool, 0, 10_000);
    bench.put("a", "x\n");
    bench.put("b", "x\n");
    for n in 0..1000 {
        bench.push(&format!("stranger-{n}"), "0123456789\n");
    }
    until("they wait", || {
        bench.sink.status().failing.load(Relaxed) > 0 && bench.sink.queue.has_room()
    });
    bench.push_of("c", "x\n", true);
    bench.push("a", "y\n");
    let (mut a, mut c) = (String::new(), String::new());
    until("others are written", || {
        bench.open();
        a = fs::read_to_string(dir.path().join("a")).unwrap();
        c = fs::read_to_string(dir.path().join("c")).unwrap_or_default();
        a.len() == 4 && c.len() == 2
    });
    assert_eq!((pool.evicted(), bench.sink.queue.is_crowded()), (0, false));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

impl Bench {
    /// Writes to these while one other file waits.
    fn put_others(&mut self, hosts: &[&str]) {
        for host in hosts {
            self.push(host, "y\n");
        }
        self.wait(1);
    }
}

/// A full disk, of which one host's file is, and a directory in the place of another.
#[test]
fn one_bad_file_does_not_stop_the_others() {
    let dir = directory();
    std::os::unix::fs::symlink("/dev/full", dir.path().join("full")).unwrap();
    fs::create_dir(dir.path().join("dir")).unwrap();
    mkfifo(&dir.path().join("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
    let mut bench = Bench::with(template(&dir, "{host}"), POLICY, &pool(100), 0, 80);
    let bad = ["full", "dir", "pipe"];
    for host in ["a", "full", "b", "dir", "c", "pipe", "d"] {
        bench.push(host, &format!("{host}\n"));
    }
    bench.wait(3);
    for host in ["a", "b", "c", "d"] {
        assert_eq!(read(dir.path().join(host)), format!("{host}\n"));
    }
    bench.fails();
    // The bytes that they hold are bounded; more is not acknowledged.
    for _ in 0..100 {
        bad.iter().for_each(|host| bench.push(host, "more\n"));
        bench.push("a", "more\n");
        until("a has it", || {
            bench.open() <= 50 && bench.sink.queue.has_room()
        });
    }
    assert!(bench.refused > 200);
    until("a has all", || {
        read(dir.path().join("a")).lines().count() == 101
    });
    assert_eq!(bench.sink.status().failing.load(Relaxed), 3);
    // It goes on by itself.
    fs::remove_dir(dir.path().join("dir")).unwrap();
    fs::remove_file(dir.path().join("full")).unwrap();
    let mut pipe = fs::OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(dir.path().join("pipe"))
        .unwrap();
    bench.wait(0);
    assert!(read(dir.path().join("dir")).starts_with("dir\nmore\n"));
    let mut text = [0; 10];
    pipe.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"pipe\nmore\n");
    until("all is well", || {
        bench.sink.status().blocked_since().is_none()
    });
}

/// Set in a process of its own in which files cannot grow beyond what is allowed.
const LIMITED: &str = "NCRX_TEST_FILE_LIMIT";

/// Runs a test of this file again, in a process that survives it when a file may not grow.
fn in_limited_process(test: &str) {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" --exact \"$1\""]);
    command.arg(program).arg(test).env(LIMITED, "1");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

/// No file may be longer from now on.
fn limit_files(bytes: Option<u64>) {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, bytes.unwrap_or(hard), hard).unwrap();
}

#[test]
fn a_partly_written_line_is_completed() {
    if std::env::var_os(LIMITED).is_none() {
        return in_limited_process("sink::tests::a_partly_written_line_is_completed");
    }
    let dir = directory();
    let path = dir.path().join("log");
    let mut bench = Bench::file(&path);
    limit_files(Some(5));
    bench.push("", "one\ntwo\n");
    bench.fails();
    assert_eq!((bench.open(), read(&path).as_str()), (1, "one\nt"));
    // Nothing gets in between; nor is the file taken away.
    bench.push("", "three\n");
    bench.sink.reopen();
    bench.fails();
    assert_eq!((bench.open(), read(&path).as_str()), (2, "one\nt"));
    limit_files(Some(7));
    until("it goes on", || read(&path) == "one\ntwo");
    limit_files(None);
    bench.wait(0);
    assert_eq!(read(&path), "one\ntwo\nthree\n");
}

#[test]
fn a_file_with_something_left_to_write_stays_open() {
    if std::env::var_os(LIMITED).is_none() {
        return in_limited_process("sink::tests::a_file_with_something_left_to_write_stays_open");
    }
    let dir = directory();
    let policy = Policy {
        rotate_bytes: Some(1),
        keep: 1,
        ..POLICY
    };
    let mut bench = Bench::with(template(&dir, "{host}"), policy, &pool(1), 0, 1000);
    limit_files(Some(3));
    bench.push("a", "long\n");
    bench.fails();
    bench.push("b", "b\n");
    bench.wait(1);
    limit_files(None);
    bench.put("a", "x\n");
    // The rest went to the file that had the beginning, although that was full.
    assert_eq!(read(dir.path().join("a.1")), "long\n");
    assert_eq!(read(dir.path().join("a")), "x\n");
}

#[test]
fn no_more_files_are_open_than_the_system_lets() {
    if std::env::var_os(LIMITED).is_none() {
        return in_limited_process("sink::tests::no_more_files_are_open_than_the_system_lets");
    }
    let dir = directory();
    // As many as it likes, but the system does not.
    let pool = pool(1000);
    let mut outputs: Vec<_> = (0..2)
        .map(|nth| {
            let place = template(&dir, &format!("{{host}}.{nth}"));
            Bench::with(place, POLICY, &pool, nth, 1 << 20)
        })
        .collect();
    let open = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, open + 6, hard).unwrap();
    for round in 0..3 {
        for host in 0..30 {
            for output in &mut outputs {
                output.push(&format!("h{host}"), &format!("{round}\n"));
            }
        }
        outputs.iter_mut().for_each(|output| output.wait(0));
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    for (host, nth) in (0..30).flat_map(|host| [(host, 0), (host, 1)]) {
        let text = read(dir.path().join(format!("h{host}.{nth}")));
        assert_eq!(text, "0\n1\n2\n");
    }
}

/// A reader that stalls keeps only its own output waiting, and gets all.
#[test]
fn a_pipe_that_nobody_reads_blocks_nothing() {
    let dir = directory();
    let path = dir.path().join("pipe");
    mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
    let mut bench = Bench::file(&path);
    bench.push("", "first\n");
    until("it is blocked", || {
        bench.sink.status().blocked_since().is_some()
    });
    let mut options = fs::OpenOptions::new();
    let mut pipe = options
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(&path)
        .unwrap();
    bench.wait(0);
    let line = format!("{}\n", "x".repeat(999));
    for _ in 0..200 {
        bench.push("", &line);
    }
    until("it is full", || {
        bench.open() < 190 && bench.sink.status().blocked_since().is_some()
    });
    let (mut text, mut some) = (Vec::new(), [0; 4096]);
    until("all was read", || {
        if let Ok(n) = pipe.read(&mut some) {
            text.extend_from_slice(&some[..n]);
        }
        bench.open() == 0 && text.len() == 6 + 200 * 1000
    });
    assert_eq!(text, format!("first\n{}", line.repeat(200)).as_bytes());
}
