// SPDX-License-Identifier: GPL-2.0

//! `ncrx`: receives kernel logs and writes them. What they mean is the library's business; this is
//! sockets, files, threads and signals.
//!
//! # Map
//!
//! | file | what it is |
//! |---|---|
//! | `main.rs` | puts all together; signals |
//! | `cli.rs` | the options |
//! | `log.rs` | what it says of itself |
//! | `worker.rs` | the loop: from the socket to the receiver, to the outputs, answers |
//! | `socket.rs` | many datagrams a call; answers from the right address |
//! | `outputs.rs` | from the receiver to all outputs; what may be acknowledged |
//! | `format/` | records as text, JSON, for the journal, for syslog |
//! | `sink/` | standard output, files, files for each sender |
//! | `state.rs` | what has been received, from one run to the next |
//! | `allow.rs`, `names.rs` | who may write, and what they are called |
//! | `expect.rs`, `metrics.rs` | who should be heard, and numbers |
//!
//! Each worker is a thread that owns all it needs. Shared are the files ([`sink::Sink`]), what
//! metrics show, and an event that tells all workers to stop.

mod allow;
mod cli;
mod expect;
mod format;
mod log;
mod metrics;
mod names;
mod outputs;
mod sink;
mod socket;
mod state;
mod worker;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use clap::{CommandFactory, Parser};
use ncrx::{Config, Receiver};
use nix::sys::eventfd::EventFd;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};

use crate::allow::Allow;
use crate::cli::{Cli, Color};
use crate::expect::Expect;
use crate::format::{Clock, Format, Formatter};
use crate::metrics::Metrics;
use crate::names::Names;
use crate::outputs::{Closed, End, Outputs};
use crate::sink::{Fsync, Sink, Target};
use crate::socket::Socket;
use crate::state::State;
use crate::worker::Worker;

/// When a second signal is meant: `timeout`, for one, sends two at a time.
const GRACE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = if cli.man {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
        rendered.map_err(Into::into).and_then(|()| print(&page))
    } else if let Some(shell) = cli.completions {
        let mut page = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "ncrx", &mut page);
        print(&page)
    } else {
        log::init(cli.verbose, cli.quiet);
        run(cli)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // As other tools do: who closes it knows.
        Err(e) if e.is::<Closed>() => ExitCode::FAILURE,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(page: &[u8]) -> anyhow::Result<()> {
    io::stdout().write_all(page).map_err(|_| Closed.into())
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let clock = Clock {
        instant: Instant::now(),
        system: SystemTime::now(),
    };
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let impatient = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        flag::register_conditional_shutdown(signal, 1, impatient.clone())?;
    }

    let names = cli
        .host_names
        .as_ref()
        .map_or(Ok(Names::default()), |path| {
            Names::read(path)
                .with_context(|| format!("cannot read --host-names {}", path.display()))
        })?;
    let names = Arc::new(names);
    let expect = cli.expect.as_ref().map(|path| {
        let expect = Expect::read(path, cli.expect_after, &names);
        expect
            .map(Arc::new)
            .with_context(|| format!("cannot read --expect {}", path.display()))
    });
    let expect = expect.transpose()?;
    let sockets = sockets(&cli)?;
    let outputs = sinks(&cli)?;
    let state = cli
        .state
        .as_ref()
        .map(|directory| State::open(directory, cli.fsync == Fsync::Always));
    let state = state.transpose()?;
    let metrics = metrics(&cli, sockets.len(), &expect, &names)?;

    let config = Config {
        dialect: cli.dialect,
        history: !cli.no_history,
        silence: cli.silence,
        host_memory: cli.host_memory as usize,
        total_memory: cli.memory as usize / sockets.len(),
        max_hosts: cli.max_hosts as usize,
        ..Config::default()
    };
    let stop = Arc::new(EventFd::new()?);
    let mut threads = Vec::new();
    for (nth, socket) in sockets.into_iter().enumerate() {
        let port = socket.local().port();
        let mut receiver = Receiver::new(config.clone());
        for (host, from) in state.iter().flat_map(|state| state.resume(port)) {
            receiver.resume(clock.instant, host, from);
        }
        let ends = outputs.iter().map(|output| End {
            formatter: Formatter::new(output.format, output.colour, clock),
            writer: output.sink.writer(),
            target: output.target.clone(),
        });
        let worker = Worker {
            nth,
            socket,
            allow: Allow::new(cli.allow.clone()),
            expect: expect.clone(),
            receiver,
            outputs: Outputs::new(ends.collect(), names.clone()),
            state: state
                .as_ref()
                .map(|state| state.file(nth, port, clock.instant)),
            metrics: metrics.clone(),
        };
        let (stop, ended) = (stop.clone(), Ended(signals.handle()));
        let thread = thread::Builder::new().name(format!("worker-{nth}"));
        threads.push(thread.spawn(move || {
            let _ended = ended;
            worker.run(&stop)
        })?);
    }
    if let Some(expect) = expect {
        thread::Builder::new()
            .name("expect".into())
            .spawn(move || expect.watch())?;
    }
    notify(NotifyState::Ready);

    // Until a signal comes that ends us, or a worker has ended.
    for signal in signals.forever() {
        if signal != SIGHUP {
            break;
        }
        outputs.iter().for_each(|output| output.sink.reopen());
        tracing::info!("files are opened anew");
    }
    notify(NotifyState::Stopping);
    stop.write(1)?;
    thread::spawn(move || {
        thread::sleep(GRACE);
        impatient.store(true, Ordering::Relaxed);
    });
    let results = threads.into_iter().map(|thread| match thread.join() {
        Ok(result) => result,
        Err(_) => Err(anyhow::anyhow!("a worker has panicked: this is a bug")),
    });
    // All have to end before the first error is looked at.
    results.collect::<Vec<_>>().into_iter().collect()
}

/// Ends the wait for signals when its thread does, however that may be.
struct Ended(Handle);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn sockets(cli: &Cli) -> anyhow::Result<Vec<Socket>> {
    let everywhere = [(std::net::Ipv6Addr::UNSPECIFIED, cli::PORT).into()];
    let listen = if cli.listen.is_empty() {
        &everywhere[..]
    } else {
        &cli.listen
    };
    let mut all = Vec::new();
    for &at in listen {
        let sockets = Socket::open(at, cli.workers, cli.receive_buffer).map_err(|e| {
            let remedy = match e.kind() {
                io::ErrorKind::AddrInUse => ": `ss -ulpn` tells whose it is; try another --listen",
                io::ErrorKind::AddrNotAvailable => {
                    ": this machine does not have it; `ip address` shows what it has"
                }
                io::ErrorKind::PermissionDenied => ": ports below 1024 need CAP_NET_BIND_SERVICE",
                _ => "",
            };
            anyhow::anyhow!("cannot listen at {at}: {e}{remedy}")
        })?;
        for socket in sockets.iter().take(1) {
            tracing::info!("listening on {}", socket.local());
        }
        all.extend(sockets);
    }
    Ok(all)
}

/// An output that is open.
struct Opened {
    sink: Sink,
    target: Target,
    format: Format,
    colour: bool,
}

fn sinks(cli: &Cli) -> anyhow::Result<Vec<Opened>> {
    let terminal =
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let open = |output: &cli::Output| {
        let target = output.target.clone();
        let format = output.format.unwrap_or(cli.format);
        let end = format.ending();
        let sink = Sink::open_ending(target.clone(), cli.fsync, cli.rotate, cli.keep, end)
            .context("--output")?;
        let colour = match cli.color {
            Color::Auto => terminal && target == Target::Stdout,
            Color::Always => true,
            Color::Never => false,
        };
        Ok(Opened {
            sink,
            target,
            format,
            colour,
        })
    };
    cli.output.iter().map(open).collect()
}

fn metrics(
    cli: &Cli,
    workers: usize,
    expect: &Option<Arc<Expect>>,
    names: &Arc<Names>,
) -> anyhow::Result<Option<Arc<Metrics>>> {
    let Some(at) = cli.metrics else {
        return Ok(None);
    };
    let server = tiny_http::Server::http(at)
        .map_err(|e| anyhow::anyhow!("cannot serve --metrics {at}: {e}; try another port"))?;
    tracing::info!("metrics are at http://{}/metrics", server.server_addr());
    let metrics = Arc::new(Metrics::new(
        workers,
        expect.clone(),
        names.clone(),
        cli.metrics_per_host,
    ));
    let served = metrics.clone();
    thread::Builder::new()
        .name("metrics".into())
        .spawn(move || served.serve(server))?;
    Ok(Some(metrics))
}

/// Tells systemd, if that is what has started us.
fn notify(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        tracing::warn!("cannot tell systemd how we are: {e}");
    }
}
