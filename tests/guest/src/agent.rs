// SPDX-License-Identifier: GPL-2.0

//! The agent: it does in the guest what the host asks for.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure, Context, Result};
use nctest_guest::{pack, receive, send, Burst, Request, Response, KMSG_WRITE_MAX, PORT};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{sched_setaffinity, CpuSet};
use nix::unistd::Pid;

/// The longest time for the port to appear and the host to open its side.
const PATIENCE: Duration = Duration::from_secs(60);

/// Serves the host until it goes away.
pub fn serve() -> Result<()> {
    let mut port = open_port()?;
    let mut input = BufReader::new(PatientPort {
        port: port.try_clone()?,
        until: Some(Instant::now() + PATIENCE),
    });
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release = release.trim_end().to_string();
    send(&mut port, &Response::Ready { release }, b"")?;
    let mut held = Vec::new();
    loop {
        let (request, payload) = receive::<Request>(&mut input)?;
        if matches!(request, Request::Poweroff) {
            return Ok(());
        }
        let (response, payload) = answer(&request, &payload, &mut held).unwrap_or_else(|e| {
            let message = format!("{e:#}");
            (Response::Error { message }, Vec::new())
        });
        send(&mut port, &response, &payload)?;
    }
}

fn answer(
    request: &Request,
    payload: &[u8],
    held: &mut Vec<UdpSocket>,
) -> Result<(Response, Vec<u8>)> {
    match request {
        Request::Exec { timeout_s } => exec(payload, *timeout_s),
        Request::Put { path, mode } => {
            put(Path::new(path), *mode, payload).with_context(|| path.clone())?;
            Ok((Response::Done, Vec::new()))
        }
        Request::Kmsg => kmsg(),
        Request::Log(burst) => Ok((log(burst)?, Vec::new())),
        Request::Bind { address } => {
            held.push(UdpSocket::bind(address).with_context(|| address.clone())?);
            Ok((Response::Done, Vec::new()))
        }
        Request::Unbind => {
            held.clear();
            Ok((Response::Done, Vec::new()))
        }
        Request::Flood { address, cpu } => {
            flood(address, *cpu)?;
            Ok((Response::Done, Vec::new()))
        }
        Request::Poweroff => unreachable!("handled by the caller"),
    }
}

/// Makes a file. An older file of its name, say a link to busybox, is removed.
fn put(path: &Path, mode: u32, data: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if path.symlink_metadata().is_ok() {
        fs::remove_file(path)?;
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
    Ok(file.write_all(data)?)
}

fn flood(address: &str, cpu: usize) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket
        .connect(address)
        .with_context(|| address.to_string())?;
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    std::thread::spawn(move || {
        sched_setaffinity(Pid::from_raw(0), &cpus).expect("no such CPU");
        loop {
            // The device may be full, or down.
            let _ = socket.send(&[0; 1000]);
        }
    });
    Ok(())
}

/// The port, before the host has opened its side, reads as ended. Be patient
/// until the first byte; from then on an end is an end.
struct PatientPort {
    port: File,
    until: Option<Instant>,
}

impl Read for PatientPort {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match (self.port.read(buf)?, self.until) {
                (0, Some(until)) if Instant::now() < until => sleep(Duration::from_millis(10)),
                (n, _) => {
                    self.until = None;
                    return Ok(n);
                }
            }
        }
    }
}

fn open_port() -> Result<File> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(path) = find_port() {
            match OpenOptions::new().read(true).write(true).open(&path) {
                Ok(port) => return Ok(port),
                Err(e) if Instant::now() > until => {
                    return Err(e).with_context(|| format!("opening {}", path.display()))
                }
                Err(_) => {}
            }
        }
        ensure!(Instant::now() < until, "no virtio-serial port named {PORT}");
        sleep(Duration::from_millis(10));
    }
}

fn find_port() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports.flatten().find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        (name.trim() == PORT).then(|| PathBuf::from("/dev").join(port.file_name()))
    })
}

/// Runs a script. Its output goes to a file rather than a pipe, so that what it leaves in the
/// background does not hold up the answer.
fn exec(script: &[u8], timeout_s: u32) -> Result<(Response, Vec<u8>)> {
    const SCRIPT: &str = "/run/script";
    const OUTPUT: &str = "/run/output";
    fs::write(SCRIPT, script)?;
    fs::remove_file(OUTPUT).or_else(|e| match e.kind() {
        ErrorKind::NotFound => Ok(()),
        _ => Err(e),
    })?;
    let output = File::create(OUTPUT)?;
    let status = Command::new("/bin/busybox")
        .args([
            "timeout",
            "-s",
            "KILL",
            &timeout_s.to_string(),
            "/bin/sh",
            SCRIPT,
        ])
        .env_clear()
        .env("PATH", "/bin")
        .env("HOME", "/")
        .stdin(File::open("/dev/null")?)
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()?;
    let code = status.code().unwrap_or(137);
    Ok((Response::Exec { code }, fs::read(OUTPUT)?))
}

/// Returns every record of the kernel's log, byte for byte: one read is one record.
fn kmsg() -> Result<(Response, Vec<u8>)> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open("/dev/kmsg")?;
    let mut packed = Vec::new();
    let mut overwritten = 0;
    let mut buf = [0; 8192];
    loop {
        match file.read(&mut buf) {
            Ok(n) => pack(&mut packed, &buf[..n]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.raw_os_error() == Some(Errno::EPIPE as i32) => overwritten += 1,
            Err(e) => return Err(e.into()),
        }
    }
    Ok((Response::Kmsg { overwritten }, packed))
}

fn log(burst: &Burst) -> Result<Response> {
    // Without the newline the kernel keeps a record open for a continuation.
    let lines: Vec<String> = burst
        .texts()
        .map(|t| format!("<{}>{t}\n", burst.prio))
        .collect();
    if let Some(long) = lines.iter().find(|line| line.len() > KMSG_WRITE_MAX) {
        return Err(anyhow!("{} bytes do not fit in one write", long.len()));
    }
    let mut file = OpenOptions::new().write(true).open("/dev/kmsg")?;
    let start = Instant::now();
    let (mut written, mut again) = (0, 0);
    for line in &lines {
        loop {
            match file.write(line.as_bytes()) {
                Ok(n) if n == line.len() => break,
                Ok(n) => return Err(anyhow!("a short write: {n} of {} bytes", line.len())),
                Err(e) if e.kind() == ErrorKind::WouldBlock => again += 1,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        written += 1;
    }
    let usec = u64::try_from(start.elapsed().as_micros())?;
    Ok(Response::Log {
        written,
        again,
        usec,
    })
}
